#include "harness/record/run_record.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "harness/base/files.h"
#include "harness/record/json_numbers.h"

namespace moecheck::record {
namespace {

using base::Json;

constexpr int kSchema = 1;
constexpr std::array<std::string_view, 5> kStateNames = {"pass", "fail", "vacuous", "unobserved", "not_applicable"};

CheckState state_from_name(std::string_view name) {
  const auto found = std::ranges::find(kStateNames, name);
  return found == kStateNames.end() ? CheckState::kUnobserved : static_cast<CheckState>(found - kStateNames.begin());
}

Json to_json(const CheckResult& check) {
  return {{"name", check.name}, {"state", check_state_name(check.state)}, {"compared", check.compared}, {"note", check.note}};
}

Json to_json(const StageCell& cell) {
  return {{"stage", cell.stage}, {"rank", cell.rank}, {"measured", number_json(cell.measured)},
          {"bound", number_json(cell.bound)}, {"used", number_json(cell.used)}, {"compared", cell.compared}};
}

Json to_json(const ExpertCell& cell) {
  return {{"rank", cell.rank}, {"expert", cell.expert}, {"is_local", cell.is_local},
          {"tokens", cell.tokens}, {"wrong_rows", cell.wrong_rows}, {"holds", cell.holds}};
}

CaseRecord case_from_json(const Json& json) {
  CaseRecord one;
  one.id = json.at("id").get<std::string>();
  one.scenario = json.value("scenario", "");
  for (const auto& [knob, value] : json.at("config").items()) one.config.emplace_back(knob, value.get<std::string>());
  one.verdict = verdict_from_name(json.at("verdict").get<std::string>()).value_or(Verdict::kUntested);
  one.reason = json.value("reason", "");
  one.seconds = json.value("seconds", 0.0);
  one.subject_seconds = json.value("subject_seconds", 0.0);
  one.repro = json.value("repro", "");
  for (const Json& c : json.at("checks"))
    one.checks.push_back({c.at("name").get<std::string>(), state_from_name(c.at("state").get<std::string>()),
                          c.value("compared", std::int64_t{0}), c.value("note", "")});
  for (const Json& f : json.at("findings")) one.findings.push_back(finding_from_json(f));
  one.first_diverging = json.value("first_diverging", "");
  for (const Json& s : json.value("stages", Json::array()))
    one.stages.push_back({s.at("stage").get<std::string>(), s.at("rank").get<std::int64_t>(), number_from_json(s.at("measured")),
                          number_from_json(s.at("bound")), number_from_json(s.at("used")), s.at("compared").get<std::int64_t>()});
  for (const Json& e : json.value("experts", Json::array()))
    one.experts.push_back({e.at("rank").get<std::int64_t>(), e.at("expert").get<std::int64_t>(), e.at("is_local").get<bool>(),
                           e.at("tokens").get<std::int64_t>(), e.value("wrong_rows", std::int64_t{0}), e.value("holds", "")});
  one.digests = json.value("digests", std::map<std::string, std::string>{});
  return one;
}

}  // namespace

std::string_view check_state_name(CheckState state) { return kStateNames[static_cast<std::size_t>(state)]; }

std::int64_t RunRecord::count(Verdict verdict) const { return std::ranges::count(cases, verdict, &CaseRecord::verdict); }

std::string RunRecord::summary_text() const {
  std::string text = fmt::format("{} pass", count(Verdict::kPass));
  for (const Verdict verdict : all_verdicts())
    if (verdict != Verdict::kPass && count(verdict) > 0) text += fmt::format(", {} {}", count(verdict), verdict_name(verdict));
  return text;
}

ExitCode RunRecord::exit_code() const {
  if (interrupted) return kExitInterrupted;
  if (cases.empty()) return kExitNothing;
  if (std::ranges::any_of(cases, [](const CaseRecord& one) { return is_failure(one.verdict); })) return kExitFailed;
  if (count(Verdict::kError) > 0) return kExitCouldNotTest;
  const auto good = count(Verdict::kPass) + count(Verdict::kXfail);
  if (count(Verdict::kInconclusive) > 0) return kExitInconclusive;
  // Only unsupported or skipped cases: nothing was tested.
  return good > 0 ? kExitGood : kExitCouldNotTest;
}

Json to_json(const CaseRecord& one) {
  Json json = {{"id", one.id}, {"scenario", one.scenario}, {"config", Json::object()}, {"verdict", verdict_name(one.verdict)},
               {"reason", one.reason}, {"seconds", one.seconds}, {"subject_seconds", one.subject_seconds}, {"repro", one.repro},
               {"checks", Json::array()}, {"findings", Json::array()}, {"first_diverging", one.first_diverging},
               {"stages", Json::array()}, {"experts", Json::array()}};
  for (const auto& [knob, value] : one.config) json["config"][knob] = value;
  for (const CheckResult& check : one.checks) json["checks"].push_back(to_json(check));
  for (const Finding& finding : one.findings) json["findings"].push_back(to_json(finding));
  for (const StageCell& cell : one.stages) json["stages"].push_back(to_json(cell));
  for (const ExpertCell& cell : one.experts) json["experts"].push_back(to_json(cell));
  if (!one.digests.empty()) json["digests"] = one.digests;
  return json;
}

Json to_json(const RunRecord& run) {
  Json summary = Json::object();
  for (const Verdict verdict : all_verdicts()) summary[std::string(verdict_name(verdict))] = run.count(verdict);
  Json json = {{"schema", kSchema}, {"moecheck_version", run.moecheck_version}, {"command", run.command},
               {"subject", run.subject}, {"started", run.started}, {"seconds", run.seconds},
               {"interrupted", run.interrupted}, {"summary", summary}, {"cases", Json::array()}};
  for (const CaseRecord& one : run.cases) json["cases"].push_back(to_json(one));
  return json;
}

base::Result<RunRecord> run_record_from_json(const Json& json) {
  try {
    if (json.at("schema").get<int>() != kSchema)
      return base::Error{base::ErrorCode::kDamaged, fmt::format("schema {} is not {}", json["schema"].dump(), kSchema), ""};
    RunRecord run;
    run.moecheck_version = json.value("moecheck_version", "");
    run.command = json.value("command", "");
    run.subject = json.value("subject", "");
    run.started = json.value("started", "");
    run.seconds = json.value("seconds", 0.0);
    run.interrupted = json.value("interrupted", false);
    for (const Json& one : json.at("cases")) run.cases.push_back(case_from_json(one));
    return run;
  } catch (const Json::exception& e) {
    return base::Error{base::ErrorCode::kDamaged, fmt::format("not a run record: {}", e.what()), ""};
  }
}

base::Result<RunRecord> read_run_record(const std::filesystem::path& run_dir) {
  const auto path = std::filesystem::is_directory(run_dir) ? run_dir / "run.json" : run_dir;
  auto json = base::read_json_file(path);
  if (!json) return json.error();
  auto run = run_record_from_json(*json);
  if (!run) return base::Error{run.error().code, run.error().message, path.string()};
  return run;
}

base::Status write_run_record(const std::filesystem::path& run_dir, const RunRecord& run) {
  // A subject's message may hold bytes that are no UTF-8; dump() would throw for them.
  return base::write_file_atomically(run_dir / "run.json", to_json(run).dump(1, ' ', false, Json::error_handler_t::replace) + "\n");
}

}  // namespace moecheck::record
