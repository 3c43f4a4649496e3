// A layer that hides its inside: sound ones are within the composed bounds, and each of the usual bugs is over them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "simulated_backward.h"

namespace moecheck::check {
namespace {

using model::Dim;
using record::CheckState;
using testing::HasSubstr;

constexpr const char* kCheck = "layer_parity";

std::vector<std::string> failing_stages(const CheckOutcome& outcome) {
  std::vector<std::string> stages;
  for (const record::Finding& finding : outcome.findings)
    if (record::is_failure(finding) && std::ranges::find(stages, finding.stage) == stages.end()) stages.push_back(finding.stage);
  return stages;
}

class HiddenInside : public testing::TestWithParam<std::string> {};

TEST_P(HiddenInside, IsJudgedAsAWholeAndASoundRunIsWithinTheBounds) {
  SimulatedRun run(GetParam());
  add_backward(run);
  hide_inside(run);
  const CheckOutcome outcome = run.check(kCheck);
  EXPECT_EQ(outcome.state, CheckState::kPass) << outcome.note << messages(outcome);
  std::set<std::string> judged;
  for (const record::StageCell& cell : outcome.stages) {
    judged.insert(cell.stage);
    EXPECT_LT(cell.used, 1) << cell.stage;
  }
  EXPECT_THAT(judged, testing::ElementsAre("grad/experts/down_EDF", "grad/experts/gate_up_EGD", "grad/scores_TK", "grad/x_TD", "output/y_TD"));
  EXPECT_THAT(outcome.note, HasSubstr("relative l2 error at most"));
}

TEST_P(HiddenInside, IsJudgedWithoutTheRouterToo) {
  SimulatedRun run(GetParam());
  add_backward(run);
  hide_inside(run);
  hide_router(run);
  const CheckOutcome outcome = run.check(kCheck);
  EXPECT_EQ(outcome.state, CheckState::kPass) << outcome.note << messages(outcome);
  EXPECT_TRUE(std::ranges::any_of(outcome.stages, [](const record::StageCell& cell) { return cell.stage == "grad/router/w_ED"; }));
}

INSTANTIATE_TEST_SUITE_P(Layouts, HiddenInside,
                         testing::Values("mesh=none", "mesh=none dtype=bf16", "mesh=ep=2", "mesh=ep=2 dtype=bf16", "mesh=dp=2,ep=2",
                                         "mesh=dp=2,ep=2 dtype=bf16", "mesh=ep=3 tokens=40 dtype=bf16", "mesh=ep=2 routing=ties",
                                         "mesh=dp=2,ep=2 tokens=0,5"));

class HiddenBug : public testing::TestWithParam<std::string> {
 protected:
  SimulatedRun run{"mesh=dp=2,ep=2 tokens=21,15 dtype=" + GetParam()};
  // With what a hidden inside leaves of it.
  std::vector<std::string> stages_that_fail() {
    hide_inside(run);
    return failing_stages(run.check(kCheck));
  }
  void swap_parts(const std::string& tap, Dim a, Dim b, Dim size) {
    base::HostTensor& tensor = run.tensor(0, tap);
    for (Dim i = 0; i < size; ++i) {
      const double kept = tensor.at(a + i);
      tensor.set(a + i, tensor.at(b + i));
      tensor.set(b + i, kept);
    }
  }
};

TEST_P(HiddenBug, GradientsOfExpertsTimesEpAreOverTheBoundAndNamed) {
  add_backward(run);
  for (trace::RankTrace& rank : run.observed.ranks)
    for (const std::string tap : {"grad/experts/gate_up_EGD", "grad/experts/down_EDF"})
      for (Dim i = 0; i < rank.tensor(tap)->numel(); ++i) rank.taps.at(tap).tensor.set(i, 2 * rank.tensor(tap)->at(i));
  hide_inside(run);
  const CheckOutcome outcome = run.check(kCheck);
  EXPECT_THAT(failing_stages(outcome), testing::UnorderedElementsAre("grad/experts/down_EDF", "grad/experts/gate_up_EGD"));
  EXPECT_EQ(first_failure(outcome).hypothesis, "2 times the expected value");
}

TEST_P(HiddenBug, GradientsOfTokensThatAreNotReducedAreOverTheBound) {
  add_backward(run, false);
  hide_inside(run);
  const CheckOutcome outcome = run.check(kCheck);
  EXPECT_THAT(failing_stages(outcome), testing::ElementsAre("grad/x_TD"));
}

TEST_P(HiddenBug, ADoubledGradientOfTheScoresOrTheRouterIsOverTheBound) {
  add_backward(run);
  for (trace::RankTrace& rank : run.observed.ranks)
    for (const std::string tap : {"grad/scores_TK", "grad/x_TD"})
      for (Dim i = 0; i < rank.tensor(tap)->numel(); ++i) rank.taps.at(tap).tensor.set(i, 2 * rank.tensor(tap)->at(i));
  EXPECT_THAT(stages_that_fail(), testing::UnorderedElementsAre("grad/scores_TK", "grad/x_TD"));
}

TEST_P(HiddenBug, AMissingExpertIsOverTheBound) {
  const SimulatedRun::Place lost = run.first_slot(0, true);
  base::HostTensor& out_RD = run.tensor(0, "experts/out_RD");
  const base::HostTensor& keys_R3 = run.tensor(0, "dispatch/rows_R3");
  for (Dim i = 0; i < out_RD.numel(); ++i)
    if (keys_R3.int_at(3 * (i / 14) + 2) == lost.expert) out_RD.set(i, 0);
  run.combine_and_reduce();
  EXPECT_THAT(stages_that_fail(), testing::ElementsAre("output/y_TD"));
}

TEST_P(HiddenBug, GateAndUpSwappedAreOverTheBound) {
  for (Dim e = 0; e < 6; ++e) swap_parts("param/experts/gate_up_EGD", e * 20 * 14, e * 20 * 14 + 10 * 14, 10 * 14);
  run.forward();
  EXPECT_THAT(stages_that_fail(), testing::ElementsAre("output/y_TD"));
}

TEST_P(HiddenBug, WeightsOfTwoExpertsSwappedAreOverTheBound) {
  swap_parts("param/experts/gate_up_EGD", 0, 20 * 14, 20 * 14);
  swap_parts("param/experts/down_EDF", 0, 14 * 10, 14 * 10);
  run.forward();
  EXPECT_THAT(stages_that_fail(), testing::ElementsAre("output/y_TD"));
}

TEST_P(HiddenBug, AMissingReductionOfTheOutputIsOverTheBound) {
  for (Dim rank = 0; rank < 4; ++rank) run.tensor(rank, "output/y_TD") = run.tensor(rank, "combine/partial_TD");
  EXPECT_THAT(stages_that_fail(), testing::ElementsAre("output/y_TD"));
}

TEST_P(HiddenBug, ScoresThatAreNotNormalisedAreOverTheBoundWhetherShownOrNot) {
  for (Dim rank = 0; rank < 4; ++rank)
    for (const std::string tap : {"router/scores_TK", "dispatch/scores_TK"})
      for (Dim i = 0; i < run.tensor(rank, tap).numel(); ++i) run.tensor(rank, tap).set(i, 0.7 * run.tensor(rank, tap).at(i));
  run.combine_and_reduce();
  SimulatedRun without_scores = run;
  hide_inside(without_scores);
  hide_router(without_scores);
  EXPECT_THAT(failing_stages(without_scores.check(kCheck)), testing::ElementsAre("output/y_TD"));
  for (trace::RankTrace& rank : run.observed.ranks) rank.taps.erase("router/logits_TE");
  EXPECT_THAT(stages_that_fail(), testing::ElementsAre("router/scores_TK"));
}

INSTANTIATE_TEST_SUITE_P(Dtypes, HiddenBug, testing::Values("fp32", "bf16"));

TEST(LayerParity, LeavesAloneWhatIsJudgedStageByStage) {
  SimulatedRun run("mesh=ep=2");
  EXPECT_EQ(run.check(kCheck).state, CheckState::kNotApplicable);
  hide_inside(run);
  run.observed.ranks[0].taps.erase("output/y_TD");
  run.observed.ranks[1].taps.erase("output/y_TD");
  EXPECT_EQ(run.check(kCheck).state, CheckState::kUnobserved);
}

TEST(LayerParity, LeavesAnExactOutputToStageDiffAndJudgesItsGradients) {
  SimulatedRun run("mesh=ep=2 values=exact top_k=2 dtype=bf16");
  add_backward(run);
  hide_inside(run);
  const CheckOutcome outcome = run.check(kCheck);
  EXPECT_EQ(outcome.state, CheckState::kPass) << messages(outcome);
  EXPECT_TRUE(std::ranges::none_of(outcome.stages, [](const record::StageCell& cell) { return cell.stage == "output/y_TD"; }));
}

TEST(LayerParity, JudgesAPartialSumByTheExpertsOfItsRank) {
  SimulatedRun run("mesh=ep=2");
  for (trace::RankTrace& rank : run.observed.ranks)
    std::erase_if(rank.taps, [](const auto& tap) { return tap.first.starts_with("dispatch/") || tap.first.starts_with("experts/"); });
  EXPECT_EQ(run.check(kCheck).state, CheckState::kPass) << messages(run.check(kCheck));
  std::swap(run.tensor(0, "combine/partial_TD"), run.tensor(1, "combine/partial_TD"));
  EXPECT_THAT(failing_stages(run.check(kCheck)), testing::ElementsAre("combine/partial_TD"));
}

TEST(LayerParity, SaysNothingAboutTokensWhoseIdsAreNoExperts) {
  SimulatedRun run("mesh=ep=2");
  hide_inside(run);
  const std::int64_t whole = run.check(kCheck).compared;
  for (Dim rank = 0; rank < 2; ++rank) run.tensor(rank, "router/ids_TK").set(0, 99);
  const CheckOutcome outcome = run.check(kCheck);
  EXPECT_EQ(outcome.state, CheckState::kPass) << messages(outcome);
  EXPECT_EQ(outcome.compared, whole - 2 * 14);
}

TEST(LayerParity, IsUnobservedWhereTheChoiceOfExpertsIsNotShown) {
  SimulatedRun run("mesh=ep=2 phases=load,forward,backward");
  add_backward(run);
  hide_inside(run);
  hide_choices(run);
  const CheckOutcome outcome = run.check(kCheck);
  EXPECT_EQ(outcome.state, CheckState::kUnobserved) << outcome.note;
  EXPECT_THAT(outcome.note, HasSubstr("router/ids_TK"));
}

TEST(LayerParity, LeavesGradientParityUnobservedWhereItJudgesTheGradients) {
  SimulatedRun run("mesh=ep=2 phases=load,forward,backward");
  add_backward(run);
  hide_inside(run);
  hide_router(run);
  EXPECT_EQ(run.check("gradient_parity").state, CheckState::kUnobserved);
  EXPECT_EQ(run.check(kCheck).state, CheckState::kPass);
}

}  // namespace
}  // namespace moecheck::check
