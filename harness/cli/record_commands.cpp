// moecheck check RUN, moecheck report RUN
#include <algorithm>
#include <cstdio>
#include <map>
#include <memory>
#include <unistd.h>

#include <fmt/format.h>

#include "harness/base/files.h"
#include "harness/base/nearest_name.h"
#include "harness/cli/commands.h"
#include "harness/cli/places.h"
#include "harness/cli/progress.h"
#include "harness/cli/run_session.h"
#include "harness/scenario/load.h"
#include "reports/report.h"

namespace moecheck::cli {
namespace {

base::Result<record::CaseRecord> judge_again(const driver::KeptTrace& kept, const cases::FamilyLoader& load_family) {
  auto knobs = cases::parse_case_id(kept.id);
  if (!knobs) return knobs.error();
  auto one = cases::make_case(*knobs, load_family);
  if (!one) return one.error();
  auto judged = driver::judge_trace(*one, kept.trace, kept.extent);
  if (!judged) return judged.error();
  driver::apply_xfail(*judged, kept.xfail_reason);
  judged->id = kept.id;
  judged->config = cases::config_of(*one);
  judged->repro = fmt::format("moecheck run --case \"{}\"", kept.id);
  return judged;
}

// Puts the case in the place of its old record, which knows what the trace does not tell: the scenario, the time it took.
void replace_case(std::vector<record::CaseRecord>& cases, record::CaseRecord judged) {
  const auto old = std::ranges::find(cases, judged.id, &record::CaseRecord::id);
  if (old == cases.end()) {
    cases.push_back(std::move(judged));
    return;
  }
  judged.scenario = old->scenario;
  judged.seconds = old->seconds;
  judged.subject_seconds = old->subject_seconds;
  judged.repro = old->repro;
  *old = std::move(judged);
}

// Cases without a trace stand as they were: a crash does not go away by judging the others again.
base::Result<record::RunRecord> judge_run_again(const std::string& run_dir, const std::vector<driver::KeptTrace>& kept) {
  auto before = driver::read_run(run_dir);
  if (!before) return before.error();
  auto scenarios = scenarios_dir();
  if (!scenarios) return scenarios.error();
  const cases::FamilyLoader load_family = scenario::family_loader(*scenarios / "models");
  record::RunRecord again = *std::move(before);
  std::map<std::string, std::string> xfail_reasons;
  for (const driver::KeptTrace& one : kept) {
    auto judged = judge_again(one, load_family);
    if (!judged) return base::Error{judged.error().code, judged.error().message, one.trace.string() + (judged.error().where.empty() ? "" : ": " + judged.error().where)};
    replace_case(again.cases, *std::move(judged));
    xfail_reasons.emplace(one.id, one.xfail_reason);
  }
  again.cases = driver::compare_layouts(std::move(again.cases), xfail_reasons);
  return again;
}

int check_run(const std::string& run_dir, const std::string& out, bool is_json) {
  auto kept = driver::kept_traces(run_dir);
  if (!kept) return report_error(kept.error().text(), exit_code_of(kept.error()));
  if (kept->empty() && std::filesystem::exists(run_dir))
    return report_error(fmt::format("{} holds no traces; run with --keep-traces all or --until trace", run_dir), record::kExitNothing);
  auto again = judge_run_again(run_dir, *kept);
  if (!again) return report_error(again.error().text(), exit_code_of(again.error()));
  if (!out.empty()) {
    if (auto made = base::make_folders(out); !made) return report_error(made.error().text(), record::kExitCouldNotTest);
    if (auto written = record::write_run_record(out, *again); !written) return report_error(written.error().text(), record::kExitCouldNotTest);
  }
  if (is_json) {
    std::puts(record::to_json(*again).dump(1, ' ', false, base::Json::error_handler_t::replace).c_str());
  } else {
    fmt::print("{}", reports::console_summary(*again, wants_color(STDOUT_FILENO)));
  }
  return again->exit_code();
}

int report_run(const std::string& run_dir, const std::vector<std::string>& names) {
  auto run = driver::read_run(run_dir);
  if (!run) return report_error(run.error().text(), exit_code_of(run.error()));
  const std::filesystem::path folder = std::filesystem::is_directory(run_dir) ? std::filesystem::path(run_dir) : std::filesystem::path(run_dir).parent_path();
  for (const std::string& name : names) {
    const reports::Format* format = reports::find_format(name);
    std::vector<std::string> known;
    for (const reports::Format& one : reports::formats()) known.emplace_back(one.name);
    if (format == nullptr) return report_error(fmt::format("there is no report format '{}'{}", name, base::suggestion(name, known)), record::kExitUsage);
    const auto path = folder / std::string(format->file_name);
    if (auto written = base::write_file_atomically(path, format->render(*run)); !written) return report_error(written.error().text(), record::kExitCouldNotTest);
    fmt::print("{}\n", path.string());
  }
  return record::kExitGood;
}

}  // namespace

void add_records(CLI::App& app, Action& action) {
  auto run_dir = std::make_shared<std::string>();
  auto out = std::make_shared<std::string>();
  auto is_json = std::make_shared<bool>(false);
  auto names = std::make_shared<std::vector<std::string>>(std::vector<std::string>{"html"});
  CLI::App* check = app.add_subcommand("check", "judge the kept traces of a run again, without its subject");
  check->add_option("run", *run_dir, "run folder")->required();
  check->add_option("--out", *out, "folder for the new run.json");
  check->add_flag("--json", *is_json, "print the new run.json to stdout");
  check->callback([&action, run_dir, out, is_json] { action = [run_dir, out, is_json] { return check_run(*run_dir, *out, *is_json); }; });
  CLI::App* report = app.add_subcommand("report", "write reports of a run from its run.json");
  report->add_option("run", *run_dir, "run folder or run.json")->required();
  report->add_option("--report", *names, "html, json, junit, markdown")->delimiter(',');
  report->callback([&action, run_dir, names] { action = [run_dir, names] { return report_run(*run_dir, *names); }; });
}

}  // namespace moecheck::cli
