// A launcher without processes: says of each run what the test wrote down, and leaves a trace of the tensors that the test gives.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "harness/driver/pipeline.h"

namespace moecheck::driver {

// What all fake launchers of a test share.
struct Script {
  // How run number `attempt` (from 0) of a case ends; cases are told apart by their seed.
  std::function<launch::CaseRun(const cases::Case& one, int attempt)> end_of;
  bool writes_traces = true;
  // Taps of a rank in a phase; none if not set.
  std::function<std::map<std::string, base::HostTensor>(const cases::Case& one, const std::string& phase, model::Dim rank)> taps_of;

  std::mutex mutex;
  std::vector<std::uint64_t> seeds;                         // in the order of running
  std::map<std::uint64_t, int> attempts;
  std::map<std::uint64_t, std::filesystem::path> checkpoints;
};

class FakeLauncher final : public launch::Launcher {
 public:
  explicit FakeLauncher(Script& script) : script_(script) {}
  base::Result<subject::Capabilities> describe() override;
  launch::CaseRun run(const cases::Case& one, const launch::CaseFolders& folders, std::chrono::milliseconds limit) override;

 private:
  void write_phase(const cases::Case& one, const std::string& phase, model::Dim rank, const std::filesystem::path& folder);

  Script& script_;
};

subject::Capabilities fake_capabilities();

// impl=fake of a tiny family, judged by phase_completion alone: it passes if the ranks finish, whatever they show.
IdentifiedCase case_of(std::uint64_t seed, const std::string& more_knobs = "");

launch::CaseRun completed();
launch::CaseRun raised();
launch::CaseRun diverged();   // rank 1 put 30 elements into what rank 0 put 35 into
launch::CaseRun ended(launch::RunEnd end, std::string reason);

// Runs scripted cases in a folder of its own.
class PipelineTest : public testing::Test {
 protected:
  PipelineTest();
  ~PipelineTest() override;

  void add_cases(std::uint64_t count);   // seeds 1..count
  base::Result<record::RunRecord> run();
  record::RunRecord run_all() { return run().value(); }
  std::vector<std::string> verdicts();   // of run_all(), by name
  std::vector<base::Json> events() const;

  std::filesystem::path folder_;
  Script script_;
  RunOptions options_;
};

}  // namespace moecheck::driver
