#include "harness/cli/run_session.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <iterator>
#include <sstream>
#include <unistd.h>

#include <fmt/chrono.h>
#include <fmt/format.h>

#include "harness/base/files.h"
#include "harness/base/nearest_name.h"
#include "harness/cli/commands.h"
#include "harness/cli/places.h"
#include "harness/cli/progress.h"
#include "harness/driver/layout_invariance.h"
#include "harness/launch/interrupts.h"
#include "reports/report.h"

namespace moecheck::cli {
namespace {

namespace fs = std::filesystem;
using base::Error;
using base::ErrorCode;
using record::ExitCode;

fs::path default_run_dir() {
  return fs::path(".moecheck/runs") / fmt::format("{:%Y%m%dT%H%M%S}-{}", fmt::gmtime(std::time(nullptr)), ::getpid());
}

base::Status write_reports(const std::vector<std::string>& names, const fs::path& run_dir, const record::RunRecord& run) {
  for (const std::string& name : names) {
    const reports::Format* format = reports::find_format(name);
    MOECHECK_REQUIRE(format != nullptr, name);
    if (auto written = base::write_file_atomically(run_dir / std::string(format->file_name), format->render(run)); !written) return written;
  }
  return base::Ok{};
}

// Those of an earlier run in the same folder would be taken for this one's.
void remove_reports(const fs::path& run_dir) {
  std::error_code code;
  for (const reports::Format& format : reports::formats()) fs::remove(run_dir / std::string(format.file_name), code);
}

base::Status check_report_names(const std::vector<std::string>& names) {
  std::vector<std::string> known;
  for (const reports::Format& format : reports::formats()) known.emplace_back(format.name);
  for (const std::string& name : names)
    if (reports::find_format(name) == nullptr)
      return Error{ErrorCode::kUsage, fmt::format("there is no report format '{}'{}", name, base::suggestion(name, known)), "--report"};
  return base::Ok{};
}

void link_latest(const fs::path& run_dir) {
  std::error_code code;
  const fs::path link = latest_run();
  if (!fs::is_directory(link.parent_path(), code)) return;
  fs::remove(link, code);
  fs::create_directory_symlink(fs::absolute(run_dir), link, code);
}

// A shell's words would need a shell; a launcher's options have no blanks in them.
std::vector<std::string> words_of(const std::string& text) {
  std::istringstream in(text);
  return {std::istream_iterator<std::string>(in), {}};
}

// The trigger of the fault, when no case was named.
base::Status use_trigger(RunArguments& arguments, const subject::Capabilities& capabilities) {
  if (arguments.fault.empty()) return base::Ok{};
  const subject::FaultInfo* fault = capabilities.find_fault(arguments.fault);
  std::vector<std::string> known;
  for (const subject::FaultInfo& one : capabilities.faults) known.push_back(one.name);
  if (fault == nullptr)
    return Error{ErrorCode::kUsage, fmt::format("{} has no fault '{}'{}", capabilities.name, arguments.fault, base::suggestion(arguments.fault, known)), "--fault"};
  arguments.selection.sets.push_back("fault=" + arguments.fault);
  if (arguments.selection.targets.empty() && arguments.selection.case_ids.empty()) arguments.selection.case_ids.push_back(fault->trigger);
  return base::Ok{};
}

driver::RunOptions options_of(const RunArguments& arguments, std::vector<driver::IdentifiedCase> cases, const Prepared& prepared) {
  driver::RunOptions options;
  options.cases = std::move(cases);
  options.capabilities = prepared.capabilities;
  options.scratch = prepared.scratch.path();
  options.run_dir = arguments.out.empty() ? default_run_dir() : fs::path(arguments.out);
  if (!arguments.checkpoint.empty()) options.checkpoint = fs::absolute(arguments.checkpoint);
  options.timeout = milliseconds_of(arguments.timeout_s);
  options.num_workers = arguments.num_workers;
  options.num_repeats = arguments.num_repeats;
  options.stops_at_first_failure = arguments.stops_at_first_failure;
  options.stops_after_trace = arguments.until == "trace";
  options.keep_traces = options.stops_after_trace || arguments.keep_traces == "all" ? driver::KeepTraces::kAll
                        : arguments.keep_traces == "none"                           ? driver::KeepTraces::kNone
                                                                                    : driver::KeepTraces::kFailed;
  if (!arguments.subject.empty()) options.repro_suffix = fmt::format(" --subject '{}'", arguments.subject);
  if (!arguments.launch.empty()) options.repro_suffix += fmt::format(" --launch '{}'", arguments.launch);
  if (!arguments.listen.empty()) options.repro_suffix += fmt::format(" --listen '{}'", arguments.listen);
  if (arguments.start_timeout_s != RunArguments{}.start_timeout_s) options.repro_suffix += fmt::format(" --start-timeout {}", arguments.start_timeout_s);
  if (!arguments.checkpoint.empty()) options.repro_suffix += fmt::format(" --checkpoint '{}'", arguments.checkpoint);
  options.command = arguments.command_line;
  return options;
}

}  // namespace

ExitCode exit_code_of(const Error& error) {
  switch (error.code) {
    case ErrorCode::kUsage: return record::kExitUsage;
    case ErrorCode::kInterrupted: return record::kExitInterrupted;
    default: return record::kExitCouldNotTest;
  }
}

void add_run_options(CLI::App& app, RunArguments& a) {
  app.add_option("targets", a.selection.targets, "scenario files, folders, suites or case ids");
  app.add_option("--case", a.selection.case_ids, "a case by its id: \"impl=... model=... mesh=...\"");
  app.add_option("-k", a.selection.expression, "only cases whose id, scenario or tags match: words, and, or, not, parentheses");
  app.add_option("--tag", a.selection.tags, "only cases with this tag");
  app.add_option("--set", a.selection.sets, "knob=value for every case");
  app.add_option("--seed", a.seed, "the same as --set seed=S");
  app.add_option("--fault", a.fault, "inject a known bug; without targets, into its own trigger case (see moecheck zoo list)");
  app.add_option("--subject", a.subject, "command of the subject; default: moecheck-rank beside this program");
  app.add_option("--launch", a.launch, "launcher that starts the ranks, {ranks} for their number: \"mpirun -n {ranks}\", \"torchrun --nproc-per-node {ranks} --no-python\"");
  app.add_option("--listen", a.listen, "with --launch: address of this machine at which ranks on others reach the driver")->needs("--launch");
  app.add_option("--checkpoint", a.checkpoint, "folder with a model.safetensors to load instead of a generated one");
  app.add_option("-j", a.num_workers, "cases run at a time")->check(CLI::Range(1, 64));
  app.add_option("--shard", a.selection.shard, "i/n: every n-th case, beginning with the i-th");
  app.add_flag("-x", a.stops_at_first_failure, "stop at the first failure");
  app.add_flag("--lf", a.selection.is_last_failed, "only cases that failed in the last run");
  app.add_option("--repeat", a.num_repeats, "run each case N times; verdicts that disagree make it flaky")->check(CLI::Range(1, 10000));
  app.add_option("--timeout", a.timeout_s, "seconds for one case")->check(CLI::Range(0.1, 86400.0));
  app.add_option("--start-timeout", a.start_timeout_s, "seconds for a subject to start: to import its framework")->check(CLI::Range(0.1, 86400.0));
  app.add_option("--out", a.out, "run folder; default: a new one in .moecheck/runs");
  app.add_option("--report", a.reports, "report formats")->delimiter(',');
  app.add_option("--until", a.until, "stop after this stage; moecheck check goes on")->check(CLI::IsMember({"trace", "record"}));
  app.add_option("--keep-traces", a.keep_traces, "which traces to keep in the run folder")->check(CLI::IsMember({"none", "failed", "all"}));
  auto* fresh = app.add_flag("--fresh-ranks", a.is_fresh_ranks, "new ranks for each case; the default where the subject forks them from a warm process");
  app.add_flag("--warm-ranks", a.is_warm_ranks, "the same ranks for case after case; the default otherwise")->excludes(fresh);
  app.add_flag("--json", a.is_json, "print run.json to stdout");
}

std::chrono::milliseconds milliseconds_of(double seconds) { return std::chrono::milliseconds(static_cast<long>(seconds * 1000)); }

std::vector<std::string> subject_command(const std::string& subject) {
  if (subject.empty()) return {rank_program().string()};
  return {"/bin/sh", "-c", "exec " + subject + " \"$@\"", "sh"};
}

base::Result<Prepared> prepare(const std::string& subject, double start_timeout_s) {
  auto scratch = launch::ScratchDir::make();
  if (!scratch) return scratch.error();
  std::vector<std::string> command = subject_command(subject);
  auto launcher = launch::make_process_launcher({command, scratch->path(), false, milliseconds_of(start_timeout_s)});
  auto capabilities = launcher->describe();
  if (!capabilities && capabilities.error().code == ErrorCode::kInterrupted) return capabilities.error();
  if (!capabilities)
    return Error{capabilities.error().code,
                 capabilities.error().message + "; --start-timeout gives it longer, `moecheck doctor` looks for other causes",
                 capabilities.error().where};
  return Prepared{*std::move(scratch), std::move(command), *std::move(capabilities)};
}

base::Result<record::RunRecord> run_with_progress(const RunArguments& arguments, std::vector<driver::IdentifiedCase> cases, const Prepared& prepared) {
  if (auto known = check_report_names(arguments.reports); !known) return known.error();
  driver::RunOptions options = options_of(arguments, std::move(cases), prepared);
  std::atomic<int> num_launchers = 0;
  options.make_launcher = [&] {
    const auto folder = prepared.scratch.path() / fmt::format("l{}", num_launchers++);
    launch::LauncherOptions launcher{prepared.command, folder, prepared.has_fresh_ranks(arguments)};
    launcher.prefix = words_of(arguments.launch);
    launcher.listen = arguments.listen;
    launcher.start_limit = milliseconds_of(arguments.start_timeout_s);
    launcher.take(prepared.capabilities);
    return launch::make_process_launcher(std::move(launcher));
  };
  remove_reports(options.run_dir);
  ProgressPrinter progress(options.cases.size(), arguments.is_json, arguments.is_quiet);
  options.on_start = [&](const driver::IdentifiedCase& one, std::size_t index) { progress.start(one.id, index); };
  options.on_end = [&](const record::CaseRecord& one, std::size_t) { progress.end(one); };
  auto run = driver::run_cases(options);
  progress.finish();
  if (!run) return run.error();
  for (std::size_t i = 0; i < run->cases.size(); ++i)
    if (std::ranges::find(run->cases[i].findings, driver::kLayoutInvariance, &record::Finding::check) != run->cases[i].findings.end())
      progress.fail_late(run->cases[i], i);
  if (auto written = write_reports(arguments.reports, options.run_dir, *run); !written) return written.error();
  link_latest(options.run_dir);
  if (arguments.is_quiet) return run;
  if (arguments.is_json) {
    std::puts(record::to_json(*run).dump(1, ' ', false, base::Json::error_handler_t::replace).c_str());
  } else {
    fmt::print("run folder: {}\n{}", options.run_dir.string(), reports::console_summary(*run, wants_color(STDOUT_FILENO)));
  }
  return run;
}

ExitCode run_command(RunArguments arguments) {
  launch::count_interrupts();
  const auto fail = [](const Error& error) { return static_cast<ExitCode>(report_error(error.text(), exit_code_of(error))); };
  if (auto known = check_report_names(arguments.reports); !known) return fail(known.error());
  if (!arguments.seed.empty()) arguments.selection.sets.push_back("seed=" + arguments.seed);
  const bool needs_subject_first = !arguments.fault.empty();
  std::optional<Selection> selection;
  const auto select = [&]() -> base::Status {
    auto selected = select_cases(arguments.selection);
    if (!selected) return selected.error();
    selection = *std::move(selected);
    return base::Ok{};
  };
  // A mistake in a scenario is told before anything is started.
  if (!needs_subject_first)
    if (auto selected = select(); !selected) return fail(selected.error());
  if (selection && selection->cases.empty())
    return static_cast<ExitCode>(report_error("nothing selected; name a scenario, a suite (scenarios/suites/smoke.yaml) or a case id", record::kExitNothing));
  auto prepared = prepare(arguments.subject, arguments.start_timeout_s);
  if (!prepared) return fail(prepared.error());
  if (needs_subject_first) {
    if (auto used = use_trigger(arguments, prepared->capabilities); !used) return fail(used.error());
    if (auto selected = select(); !selected) return fail(selected.error());
    if (selection->cases.empty()) return static_cast<ExitCode>(report_error("nothing selected", record::kExitNothing));
  }
  auto run = run_with_progress(arguments, std::move(selection->cases), *prepared);
  if (!run) return fail(run.error());
  if (arguments.until == "trace") {
    // Traced and left to `moecheck check` is all that was asked.
    for (record::CaseRecord& one : run->cases)
      if (one.verdict == record::Verdict::kSkipped) one.verdict = record::Verdict::kPass;
  }
  return run->exit_code();
}

}  // namespace moecheck::cli
