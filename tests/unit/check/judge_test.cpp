// phase_completion, the judge, and runs that were cut short.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "harness/check/join.h"
#include "harness/trace/tap_points.h"
#include "simulated_run.h"

namespace moecheck::check {
namespace {

using model::Dim;
using record::CheckState;
using record::Verdict;
using testing::HasSubstr;

CheckState state_of(const record::CaseRecord& one, const std::string& name) {
  for (const auto& check : one.checks)
    if (check.name == name) return check.state;
  return CheckState::kNotApplicable;
}

void cut_forward(SimulatedRun& run, std::size_t rank, const std::string& message) {
  std::erase_if(run.observed.ranks[rank].taps, [](const auto& tap) { return !tap.first.starts_with("param/"); });
  run.observed.ranks[rank].aborted = true;
  run.failures.push_back({static_cast<std::int64_t>(rank), "forward", message, ""});
}

TEST(Checks, AreTwentyOneAndDocumentThemselves) {
  std::set<std::string_view> names;
  for (const Check& check : checks()) {
    names.insert(check.name);
    for (const auto text : {check.doc.proves, check.doc.cannot_prove, check.doc.reads, check.doc.applies_when}) EXPECT_FALSE(text.empty()) << check.name;
    EXPECT_NE(check.run == nullptr, check.run_case == nullptr) << check.name;
  }
  EXPECT_THAT(names, testing::ElementsAre("checkpoint_census", "checkpoint_round_trip", "comm_log", "euler_identity", "expert_census", "gradient_parity",
                                          "layer_parity", "nonfinite", "optimizer", "path_taken", "phase_completion", "placement", "replica_agreement",
                                          "resume_determinism", "routing_ties", "save_undisturbed", "shape_pairing", "stage_diff", "step_parity",
                                          "token_conservation", "training_state"));
}

TEST(PhaseCompletion, PutsTheCauseBeforeItsEchoes) {
  SimulatedRun run("mesh=ep=3");
  cut_forward(run, 0, "gloo: Connection closed by peer [127.0.0.1]");
  cut_forward(run, 2, "IndexError: index 12 is out of bounds");
  const CheckOutcome outcome = run.check("phase_completion");
  ASSERT_EQ(outcome.findings.size(), 2U);
  EXPECT_EQ(outcome.findings[0].rank, 2);
  EXPECT_EQ(outcome.findings[0].stage, "forward");
  EXPECT_THAT(outcome.findings[0].message, HasSubstr("IndexError"));
  EXPECT_EQ(outcome.findings[1].rank, 0);
  EXPECT_THAT(outcome.findings[1].hypothesis, HasSubstr("rank 2"));
  EXPECT_EQ(outcome.compared, 3 * 2);
}

// A rank that a launcher started lives on for a moment after the driver has turned away, and breaks off when the one that raised is gone.
TEST(PhaseCompletion, PutsARankThatSaidWhyBeforeOneThatDidNot) {
  SimulatedRun run("mesh=ep=2");
  run.observed.ranks[0].aborted = true;
  cut_forward(run, 1, "IndexError: no such expert");
  const record::CaseRecord one = run.judged();
  EXPECT_EQ(one.first_diverging, "forward, rank 1");
  EXPECT_EQ(one.findings.at(1).rank, 0);
  EXPECT_EQ(one.findings.at(1).hypothesis, "echo of the failure of rank 1");
}

TEST(PhaseCompletion, NamesAtMostFourRanks) {
  SimulatedRun run("mesh=ep=6");
  for (std::size_t rank = 0; rank < 6; ++rank) cut_forward(run, rank, "Connection closed by peer");
  EXPECT_EQ(run.check("phase_completion").findings.size(), 4U);
}

TEST(PhaseCompletion, ReportsARankThatBrokeOffSilently) {
  SimulatedRun run("mesh=ep=2");
  run.observed.ranks[1].aborted = true;
  EXPECT_EQ(first_failure(run.check("phase_completion")).rank, 1);
}

TEST(Judge, DoesNotReportTapsThatAFailedPhaseExplains) {
  SimulatedRun run("mesh=ep=2");
  cut_forward(run, 1, "KeyError: experts");
  const record::CaseRecord one = run.judged();
  EXPECT_EQ(one.verdict, Verdict::kFail);
  ASSERT_EQ(one.findings.size(), 1U) << one.findings[1].check << ": " << one.findings[1].message;
  EXPECT_EQ(one.findings[0].check, "phase_completion");
  EXPECT_EQ(one.first_diverging, "forward, rank 1");
}

TEST(Judge, ListsUnobservedChecksOfARunThatFailedToLoad) {
  SimulatedRun run("mesh=ep=2");
  for (auto& rank : run.observed.ranks) rank.taps.clear();
  run.failures = {{0, "load", "KeyError: 'self_attn'", ""}, {1, "load", "KeyError: 'self_attn'", ""}};
  const record::CaseRecord one = run.judged();
  EXPECT_EQ(one.verdict, Verdict::kFail);
  EXPECT_EQ(one.findings.size(), 2U);
  for (const std::string name : {"expert_census", "stage_diff", "token_conservation", "routing_ties", "shape_pairing", "nonfinite"})
    EXPECT_EQ(state_of(one, name), CheckState::kUnobserved) << name;
}

TEST(Judge, DoesNotPassACaseInWhichNothingWasObserved) {
  SimulatedRun run("mesh=ep=2");
  for (auto& rank : run.observed.ranks) {
    rank.taps.clear();
    rank.implementation.clear();
    rank.experts_backend.clear();
  }
  const record::CaseRecord one = run.judged();
  EXPECT_EQ(one.verdict, Verdict::kVacuous);
  EXPECT_FALSE(one.reason.empty());
}

TEST(Judge, ReportsATapThatOneRankLacksOnce) {
  SimulatedRun run("mesh=ep=2");
  run.observed.ranks[1].taps.erase("router/ids_TK");
  const record::CaseRecord one = run.judged();
  EXPECT_EQ(one.verdict, Verdict::kFail);
  EXPECT_EQ(std::ranges::count_if(one.findings, [](const record::Finding& f) { return f.stage == "router/ids_TK"; }), 1);
  EXPECT_EQ(one.first_diverging, "router/ids_TK, rank 1");
}

TEST(Judge, PassesAnUnobservedTapAndListsTheCheck) {
  SimulatedRun run("mesh=ep=2");
  for (auto& rank : run.observed.ranks) rank.taps.erase("dispatch/rows_R3");
  const record::CaseRecord one = run.judged();
  EXPECT_EQ(state_of(one, "token_conservation"), CheckState::kUnobserved);
  EXPECT_EQ(one.verdict, Verdict::kPass);
}

TEST(Judge, NamesTheEarliestStageFirst) {
  SimulatedRun run("mesh=ep=2");
  run.tensor(1, "param/experts/down_EDF").set(3 * 14 * 10, 9.0);
  run.forward();
  const record::CaseRecord one = run.judged();
  EXPECT_EQ(one.verdict, Verdict::kFail);
  EXPECT_EQ(one.first_diverging, "param/experts/down_EDF, rank 1, expert 9");
  EXPECT_EQ(one.findings.front().check, "expert_census");
}

TEST(Judge, RefusesAnUnknownCheckWithASuggestion) {
  SimulatedRun run("mesh=none");
  run.one.checks = {"stage_dif"};
  const trace::Expected expected;
  const auto result = judge_alone(run.one, {&expected, 1}, {&run.observed, 1});
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().code, base::ErrorCode::kUsage);
  EXPECT_THAT(result.error().message, HasSubstr("stage_diff"));
}

TEST(Judge, RunsOnlyTheChecksThatTheCaseNames) {
  SimulatedRun run("mesh=none");
  run.one.checks = {"nonfinite", "expert_census"};
  const record::CaseRecord one = run.judged();
  ASSERT_EQ(one.checks.size(), 2U);
  EXPECT_EQ(one.verdict, Verdict::kPass);
}

// What a subject writes may be anything: a finding, never a crash, and never a pass.
TEST(Judge, FailsATapOfAnyWrongShapeOrKind) {
  for (const trace::TapPoint& tap : trace::tap_points()) {
    const SimulatedRun sound("mesh=ep=2");
    if (sound.observed.ranks[1].find(tap.name) == nullptr) continue;  // of another phase or kind of layer
    const base::HostTensor right = sound.observed.ranks[1].taps.at(std::string(tap.name)).tensor;
    base::Shape longer = right.shape(), shorter = right.shape();
    ++longer[0];
    --shorter[0];
    const bool is_integer = !base::is_floating(right.dtype());
    const base::DType other_kind = is_integer ? base::DType::kF32 : base::DType::kI64;
    const std::vector<base::HostTensor> wrong = {base::HostTensor(right.dtype(), longer),  base::HostTensor(right.dtype(), shorter),
                                                 base::HostTensor(right.dtype(), {}),      base::HostTensor(right.dtype(), {0}),
                                                 base::HostTensor(other_kind, right.shape())};
    for (const base::HostTensor& tensor : wrong) {
      SimulatedRun run("mesh=ep=2");
      run.tensor(1, std::string(tap.name)) = tensor;
      EXPECT_EQ(run.judged().verdict, Verdict::kFail) << tap.name << " " << base::shape_text(tensor.shape());
    }
  }
}

TEST(Judge, FailsKeysAndIdsThatAreOutOfRange) {
  for (const std::string tap : {"dispatch/rows_R3", "router/ids_TK", "dispatch/ids_TK", "dispatch/counts_e"})
    for (const double value : {-7.0, -1.0, 99.0, 1e15}) {
      SimulatedRun run("mesh=ep=2");
      for (Dim i = 0; i < 3; ++i) run.tensor(0, tap).set(i, value);
      EXPECT_EQ(run.judged().verdict, Verdict::kFail) << tap << " " << value;
    }
}

TEST(JoinRows, ReportsMissingUnexpectedAndDuplicateKeys) {
  const std::vector<std::int64_t> rows = {0, 0, 5, 0, 0, 5, 1, 0, 2, 9, 9, -1};
  const RowJoin join = join_rows(index_rows(base::tensor_from_ints({4, 3}, rows)), {{0, 0, 5}, {3, 1, 4}});
  ASSERT_EQ(join.missing.size(), 1U);
  EXPECT_EQ(join.missing[0], (RowKey{3, 1, 4}));
  ASSERT_EQ(join.unexpected.size(), 1U);
  EXPECT_EQ(join.unexpected[0], (RowKey{1, 0, 2}));
  ASSERT_EQ(join.duplicates.size(), 1U);
  EXPECT_EQ(join.duplicates[0], (RowKey{0, 0, 5}));
}

}  // namespace
}  // namespace moecheck::check
