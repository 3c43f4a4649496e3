// Faults x checks over the real ranks: every fault is caught where it is, every check catches something, and sound
// implementations are silent.
#include <algorithm>
#include <set>
#include <unistd.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "harness/check/registry.h"
#include "harness/driver/pipeline.h"
#include "harness/driver/zoo.h"
#include "harness/launch/scratch_dir.h"
#include "harness/scenario/load.h"
#include "harness/scenario/suite.h"

namespace moecheck::driver {
namespace {

namespace fs = std::filesystem;
using record::CheckState;
using record::Verdict;

// Checks that no fault of the zoo is declared to show, each with the reason, but damaged traces in tests/unit/check do.
// The in-tree implementations show their inside and each part of a step: layer_parity and step_parity have nothing to do there.
const std::set<std::string> kCaughtByUnitTests = {"layer_parity", "step_parity"};

class Detection : public testing::Test {
 protected:
  Detection() : scratch_(launch::ScratchDir::make().value()), load_family_(scenario::family_loader(fs::path(MOECHECK_SOURCE_DIR) / "scenarios" / "models")) {
    launch::LauncherOptions options{{MOECHECK_BIN_DIR "/moecheck-rank"}, scratch_.path(), false};
    capabilities_ = launch::make_process_launcher(options)->describe().value();
  }

  IdentifiedCase case_of(const std::string& id) const {
    cases::Case one = cases::make_case(cases::parse_case_id(id).value(), load_family_).value();
    std::string canonical = cases::case_id(one, load_family_);
    return {std::move(one), std::move(canonical)};
  }

  record::RunRecord run(std::vector<IdentifiedCase> cases) const {
    RunOptions options;
    options.cases = std::move(cases);
    options.capabilities = capabilities_;
    options.scratch = scratch_.path();
    options.run_dir = scratch_.path() / "run";
    options.keep_traces = KeepTraces::kNone;
    options.make_launcher = [this] {
      return launch::make_process_launcher({{MOECHECK_BIN_DIR "/moecheck-rank"}, scratch_.path() / "l", false});
    };
    return run_cases(options).value();
  }

  std::vector<IdentifiedCase> cases_of(const std::string& suite) const {
    std::vector<IdentifiedCase> cases;
    auto loaded = scenario::load_cases(suite, {}, fs::path(MOECHECK_SOURCE_DIR) / "scenarios", load_family_).value();
    for (cases::Case& one : loaded) {
      std::string id = cases::case_id(one, load_family_);
      cases.push_back({std::move(one), std::move(id)});
    }
    return cases;
  }

  // How much each check compared, but for those that compared nothing. Cases that are expected to fail fail.
  static std::map<std::string, std::int64_t, std::less<>> compared_in(const record::RunRecord& run) {
    std::map<std::string, std::int64_t, std::less<>> compared;
    for (const record::CaseRecord& one : run.cases) {
      if (one.verdict == Verdict::kXfail) continue;
      EXPECT_EQ(one.verdict, Verdict::kPass) << one.id << ": " << record::verdict_name(one.verdict) << " " << one.first_diverging << one.reason;
      for (const record::Finding& finding : one.findings) EXPECT_FALSE(record::is_failure(finding)) << one.id << ": " << finding.message;
      for (const record::CheckResult& check : one.checks) {
        EXPECT_NE(check.state, CheckState::kVacuous) << one.id << ": " << check.name;
        if (check.state == CheckState::kPass && check.compared > 0) compared[check.name] += check.compared;
      }
    }
    return compared;
  }

  launch::ScratchDir scratch_;
  cases::FamilyLoader load_family_;
  subject::Capabilities capabilities_;
};

TEST_F(Detection, CatchesEveryFaultWhereItIsAndIsSilentWithoutIt) {
  ASSERT_GE(capabilities_.faults.size(), 8U);
  std::vector<IdentifiedCase> cases;
  for (const subject::FaultInfo& fault : capabilities_.faults) {
    EXPECT_NE(fault.origin, "") << fault.name;
    cases.push_back(case_of(fault.trigger));
    cases.push_back(case_of(fault.trigger + " fault=" + fault.name));
  }
  const record::RunRecord run = this->run(std::move(cases));
  ASSERT_EQ(run.cases.size(), 2 * capabilities_.faults.size());
  for (std::size_t i = 0; i < capabilities_.faults.size(); ++i) {
    const subject::FaultInfo& fault = capabilities_.faults[i];
    const record::CaseRecord& sound = run.cases[2 * i];
    const record::CaseRecord& faulty = run.cases[2 * i + 1];
    EXPECT_EQ(sound.verdict, Verdict::kPass) << fault.name << " without the fault: " << sound.first_diverging << sound.reason;
    EXPECT_EQ(faulty.verdict, fault.is_control ? Verdict::kPass : Verdict::kFail) << fault.name << ": " << faulty.reason;
    EXPECT_THAT(missed_catches(fault, faulty), testing::IsEmpty()) << fault.name;
  }
}

TEST_F(Detection, HasAFaultForEveryCheck) {
  std::set<std::string> declared;
  for (const subject::FaultInfo& fault : capabilities_.faults)
    for (const subject::ExpectedCatch& one : fault.expected) {
      EXPECT_NE(check::find_check(one.check), nullptr) << fault.name << " names the check " << one.check;
      if (!fault.is_control) declared.insert(one.check);
    }
  for (const check::Check& one : check::checks()) {
    const std::string name(one.name);
    EXPECT_NE(declared.contains(name), kCaughtByUnitTests.contains(name))
        << name << (declared.contains(name) ? ": a fault shows it by now; take it off the list" : ": no fault and no unit test shows it");
  }
}

TEST_F(Detection, PassesTheSmokeAndBackwardSuitesAndLooksAtSomethingInEachCase) {
  std::vector<IdentifiedCase> cases;
  for (const char* suite : {"suites/smoke.yaml", "suites/backward.yaml"}) {
    auto loaded = cases_of(suite);
    EXPECT_GE(loaded.size(), 150U) << suite;
    std::ranges::move(loaded, std::back_inserter(cases));
  }
  const auto compared = compared_in(run(std::move(cases)));
  for (const check::Check& one : check::checks())
    EXPECT_EQ(compared.contains(one.name), one.run != nullptr && !kCaughtByUnitTests.contains(std::string(one.name))) << one.name;
}

TEST_F(Detection, PassesTheCheckpointSuiteAndLooksAtSomethingInEachCase) {
  auto cases = cases_of("suites/checkpoint.yaml");
  EXPECT_GE(cases.size(), 90U);
  const auto compared = compared_in(run(std::move(cases)));
  for (const check::Check& one : check::checks()) EXPECT_NE(compared.contains(one.name), kCaughtByUnitTests.contains(std::string(one.name))) << one.name;
}

TEST_F(Detection, ReshardsFromEveryLayoutToEveryOtherAndBack) {
  auto cases = cases_of("suites/reshard.yaml");
  EXPECT_GE(cases.size(), 2U * 13 * 13);
  const auto compared = compared_in(run(std::move(cases)));
  for (const char* check : {"checkpoint_census", "checkpoint_round_trip"}) EXPECT_TRUE(compared.contains(check)) << check;
}

}  // namespace
}  // namespace moecheck::driver
