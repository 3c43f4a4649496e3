#include "fake_launcher.h"

#include <fstream>
#include <unistd.h>

namespace moecheck::driver {

namespace fs = std::filesystem;

base::Result<subject::Capabilities> FakeLauncher::describe() { return fake_capabilities(); }

launch::CaseRun FakeLauncher::run(const cases::Case& one, const launch::CaseFolders& folders, std::chrono::milliseconds) {
  int attempt = 0;
  {
    const std::lock_guard lock(script_.mutex);
    script_.seeds.push_back(one.problem.seed);
    attempt = script_.attempts[one.problem.seed]++;
    script_.checkpoints[one.problem.seed] = folders.checkpoint;
  }
  if (script_.writes_traces)
    for (const std::string& phase : one.phases)
      for (model::Dim rank = 0; rank < one.world_size(); ++rank) write_phase(one, phase, rank, folders.trace);
  return script_.end_of(one, attempt);
}

void FakeLauncher::write_phase(const cases::Case& one, const std::string& phase, model::Dim rank, const fs::path& folder) {
  trace::RankTrace shown;
  shown.rank = rank;
  shown.implementation = one.impl;
  shown.experts_backend = one.experts_backend;
  if (script_.taps_of)
    for (auto& [name, tensor] : script_.taps_of(one, phase, rank)) shown.taps[name] = {tensor, {}, tensor.shape()};
  EXPECT_TRUE(trace::write_rank_phase(folder, phase, shown, {}));
}

subject::Capabilities fake_capabilities() {
  subject::Capabilities c;
  c.protocol = subject::kProtocol;
  c.name = "fake";
  c.version = "7";
  c.implementations = {{"fake", "", {"ep"}, {"eager"}}};
  c.dtypes = {"fp32"};
  c.devices = {"cpu"};
  c.phases = {"load", "forward"};
  return c;
}

IdentifiedCase case_of(std::uint64_t seed, const std::string& more_knobs) {
  const auto load_family = [](std::string_view family) -> base::Result<model::ModelSpec> {
    model::ModelSpec spec;
    spec.family = family;
    spec.num_experts = 4;
    spec.top_k = 2;
    spec.d_model = 8;
    spec.d_ff = 6;
    spec.names = {"router", "experts.{e}.gate", "experts.{e}.up", "experts.{e}.down", "attention"};
    return spec;
  };
  cases::KnobValues knobs = cases::parse_case_id("impl=fake model=tiny " + more_knobs).value();
  knobs["seed"] = std::to_string(seed);
  knobs.emplace("checks", "phase_completion");
  cases::Case one = cases::make_case(knobs, load_family).value();
  one.scenario = "cases/fake";
  std::string id = cases::case_id(one, load_family);
  return {std::move(one), std::move(id)};
}

launch::CaseRun completed() { return {launch::RunEnd::kCompleted, "", {}, 0.5}; }

launch::CaseRun raised() {
  return {launch::RunEnd::kRaised, "rank 0 in forward: no", {{0, "forward", "no", "line 1"}}, 0.5};
}

launch::CaseRun diverged() {
  const auto of = [](std::int64_t count) -> trace::Collective {
    return {"all_reduce", "ep", 1, "sum", "fp32", count, 4 * count, {}, {}, "output/y_TD"};
  };
  return {launch::RunEnd::kDiverged, "in forward rank 1 entered another all_reduce", {}, 0.5, launch::CollectiveMismatch{1, 0, of(30), of(35)}};
}

launch::CaseRun ended(launch::RunEnd end, std::string reason) { return {end, std::move(reason), {}, 0.5}; }

PipelineTest::PipelineTest() {
  std::string pattern = (fs::temp_directory_path() / "pipeline_test_XXXXXX").string();
  if (::mkdtemp(pattern.data()) != nullptr) folder_ = pattern;
  script_.end_of = [](const cases::Case&, int) { return completed(); };
  options_.make_launcher = [this] { return std::make_unique<FakeLauncher>(script_); };
  options_.capabilities = fake_capabilities();
  options_.scratch = folder_ / "scratch";
  options_.run_dir = folder_ / "run";
  options_.command = "moecheck run tests";
}

PipelineTest::~PipelineTest() {
  std::error_code code;
  fs::remove_all(folder_, code);
}

void PipelineTest::add_cases(std::uint64_t count) {
  for (std::uint64_t seed = 1; seed <= count; ++seed) options_.cases.push_back(case_of(seed));
}

base::Result<record::RunRecord> PipelineTest::run() { return run_cases(options_); }

std::vector<std::string> PipelineTest::verdicts() {
  std::vector<std::string> names;
  for (const record::CaseRecord& one : run_all().cases) names.emplace_back(record::verdict_name(one.verdict));
  return names;
}

std::vector<base::Json> PipelineTest::events() const {
  std::vector<base::Json> all;
  std::ifstream in(options_.run_dir / "events.jsonl");
  for (std::string line; std::getline(in, line);) all.push_back(base::parse_json(line, "events.jsonl").value());
  return all;
}

}  // namespace moecheck::driver
