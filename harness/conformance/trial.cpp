#include "harness/conformance/trial.h"

#include <algorithm>

#include <fmt/format.h>

#include "harness/base/files.h"
#include "harness/conformance/declared.h"
#include "harness/launch/interrupts.h"
#include "harness/subject/checkpoint.h"

namespace moecheck::conformance {

namespace fs = std::filesystem;
using base::Error;
using base::ErrorCode;
using base::Json;
using record::CaseRecord;

namespace {

// A subject of many implementations that all fail is told so soon.
constexpr std::size_t kMaxCandidates = 40;

}  // namespace

base::Result<driver::IdentifiedCase> Trial::case_of(const std::string& id) const {
  auto knobs = cases::parse_case_id(id);
  if (!knobs) return knobs.error();
  auto one = cases::make_case(*knobs, options_.load_family);
  if (!one) return one.error();
  one->scenario = "plugin check";
  std::string canonical = cases::case_id(*one, options_.load_family);
  return driver::IdentifiedCase{*std::move(one), std::move(canonical)};
}

base::Result<std::vector<CaseRecord>> Trial::run(const std::vector<driver::IdentifiedCase>& cases, const RunChanges& changes) {
  driver::RunOptions run;
  run.cases = cases;
  run.capabilities = capabilities();
  run.scratch = new_folder("r");
  run.run_dir = run.scratch / "run";
  run.timeout = changes.limit.count() > 0 ? changes.limit : options_.limit;
  run.keep_traces = driver::KeepTraces::kNone;
  run.repro_suffix = options_.repro_suffix;
  run.make_launcher = [&] {
    launch::LauncherOptions launcher{changes.command.empty() ? options_.command : changes.command, run.scratch / "l",
                                     capabilities().has_fork_server, options_.limit};
    launcher.take(capabilities());
    launcher.on_sent = changes.on_sent;
    return launch::make_process_launcher(std::move(launcher));
  };
  auto record = driver::run_cases(run);
  std::error_code code;
  fs::remove_all(run.scratch, code);
  if (!record) return record.error();
  if (launch::num_interrupts() > 0) return Error{ErrorCode::kInterrupted, "interrupted", ""};
  MOECHECK_REQUIRE(record->cases.size() == cases.size());
  return std::move(record->cases);
}

const std::optional<driver::IdentifiedCase>& Trial::sound_case() {
  if (sound_case_) return *sound_case_;
  sound_case_.emplace();
  std::vector<driver::IdentifiedCase> candidates;
  // Those whose ranks wait for each other in a forward first: most of what can go wrong is there.
  for (const char* mesh : {"ep=2", "tp=2", "fsdp=2", "dp=2", "none"})
    for (const subject::ImplementationInfo& impl : capabilities().implementations) {
      const std::vector<std::string> offered = meshes_of(impl);
      if (std::ranges::find(offered, mesh) == offered.end()) continue;
      for (const std::string& more : {std::string(), " tokens_over=" + tokens_over_all(mesh)})
        if (auto one = case_of(basic_case(capabilities(), impl, mesh) + more)) candidates.push_back(*std::move(one));
    }
  if (candidates.size() > kMaxCandidates) candidates.resize(kMaxCandidates);
  for (const driver::IdentifiedCase& one : candidates) {
    const auto records = run({one});
    if (!records) break;
    if (records->front().verdict != record::Verdict::kPass) continue;
    *sound_case_ = one;
    break;
  }
  return *sound_case_;
}

base::Result<std::unique_ptr<launch::RankPool>> Trial::start_ranks(model::Dim world_size) {
  return launch::RankPool::start({options_.command, world_size, new_folder("p"), options_.limit});
}

fs::path Trial::new_folder(const std::string& name) {
  const fs::path folder = options_.scratch / fmt::format("{}{}", name, num_folders_++);
  std::error_code code;
  fs::create_directories(folder, code);
  return folder;
}

base::Result<fs::path> Trial::new_checkpoint(const cases::Case& one) {
  const fs::path folder = new_folder("c");
  if (auto written = subject::write_checkpoint(folder, one.problem, subject::weight_form(one.checkpointing)); !written) return written.error();
  return folder;
}

std::string record_text(const CaseRecord& record) {
  std::string text = fmt::format("{}", record::verdict_name(record.verdict));
  if (record.verdict == record::Verdict::kPass) return text;
  if (!record.reason.empty()) text += ": " + record.reason;
  if (const auto bad = std::ranges::find_if(record.findings, [](const record::Finding& finding) { return record::is_failure(finding); });
      bad != record.findings.end())
    text += fmt::format("; {} at {}{}: {}", bad->check, bad->stage, bad->rank ? fmt::format(", rank {}", *bad->rank) : "", bad->message);
  return text + "; again with: " + record.repro;
}

launch::CallResult ask(launch::RankPool& pool, const Json& request, model::Dim world_size, std::chrono::milliseconds limit) {
  return pool.call(Requests(static_cast<std::size_t>(world_size), request), limit);
}

Json open_request(const cases::Case& one, const launch::RankPool& pool, const fs::path& checkpoint, const fs::path& trace) {
  Json request = subject::to_json(subject::OpenRequest{one, pool.rendezvous(), checkpoint, trace});
  request["op"] = "open";
  return request;
}

std::vector<Json> requests_after_open(const cases::Case& one) {
  std::vector<Json> requests;
  if (one.has_phase("load")) requests.push_back({{"op", "load"}});
  for (model::Dim batch = 0; batch < one.num_batches(); ++batch) {
    for (const char* phase : {"forward", "backward"})
      if (one.has_phase(phase)) requests.push_back({{"op", phase}, {"batch", batch}});
    if (one.ends_step(batch)) requests.push_back({{"op", "step"}, {"batch", batch}});
  }
  requests.push_back({{"op", "close"}});
  return requests;
}

std::string silence_text(const launch::RankOutcome& outcome) {
  if (!outcome.protocol_error.empty()) return outcome.protocol_error;
  if (outcome.exit) return "ended with " + outcome.exit->text();
  if (outcome.has_left) return "closed its socket";
  if (!outcome.reply) return "did not answer";
  return "";
}

}  // namespace moecheck::conformance
