// nonfinite, stage_diff and routing_ties on damaged values.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "harness/check/nonfinite_scan.h"
#include "simulated_run.h"

namespace moecheck::check {
namespace {

using model::Dim;
using record::CheckState;
using testing::HasSubstr;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

void poison_row(base::HostTensor& tensor, Dim row) {
  for (Dim i = row * tensor.dim(1); i < (row + 1) * tensor.dim(1); ++i) tensor.set(i, kNaN);
}

// transformers#45473, bug 3: the row of a sentinel slot was never written, then multiplied by 0.
TEST(Nonfinite, BlamesTheUnwrittenRowOfANonLocalExpert) {
  SimulatedRun run("mesh=ep=2 dtype=bf16");
  const auto place = run.first_slot(1, false);
  poison_row(run.tensor(1, "combine/partial_TD"), place.token);
  run.reduce();
  const CheckOutcome outcome = run.check("nonfinite");
  ASSERT_EQ(outcome.findings.size(), 1U) << messages(outcome);  // not the output, whose input was bad
  EXPECT_EQ(outcome.findings[0].stage, "combine/partial_TD");
  EXPECT_EQ(outcome.findings[0].rank, 1);
  EXPECT_EQ(outcome.findings[0].token, place.token);
  EXPECT_EQ(outcome.findings[0].slot, place.slot);
  EXPECT_EQ(outcome.findings[0].expert, place.expert);
  EXPECT_THAT(outcome.findings[0].hypothesis, HasSubstr("never written"));
}

TEST(Nonfinite, BlamesTheStageWhereTheNaNArises) {
  SimulatedRun run("mesh=ep=2");
  const auto place = run.first_slot(0, true);
  poison_row(run.tensor(0, "experts/out_RD"), run.row_of(0, place.token, place.slot));
  run.combine_and_reduce();
  const CheckOutcome outcome = run.check("nonfinite");
  ASSERT_EQ(outcome.findings.size(), 1U) << messages(outcome);
  EXPECT_EQ(outcome.findings[0].stage, "experts/out_RD");
  EXPECT_EQ(outcome.findings[0].expert, place.expert);
  EXPECT_EQ(outcome.findings[0].token, place.token);
}

TEST(Nonfinite, SeesAnInfInAParameter) {
  SimulatedRun run("mesh=ep=2 dtype=bf16");
  run.tensor(1, "param/experts/down_EDF").set(2 * 14 * 10 + 3, std::numeric_limits<double>::infinity());
  const CheckOutcome outcome = run.check("nonfinite");
  EXPECT_EQ(first_failure(outcome).rank, 1);
  EXPECT_EQ(first_failure(outcome).expert, 8);
}

TEST(StageDiff, NeverLetsANaNPass) {
  for (const std::string tap : {"input/x_TD", "router/logits_TE", "router/scores_TK", "experts/in_RD", "experts/gate_up_RG", "experts/act_RF", "experts/out_RD",
                                "combine/partial_TD", "output/y_TD"}) {
    for (const std::string knobs : {"mesh=ep=2", "mesh=ep=2 dtype=bf16", "mesh=none", "mesh=ep=2 values=exact top_k=2"}) {
      SimulatedRun run(knobs);
      run.tensor(0, tap).set(1, kNaN);
      const CheckOutcome outcome = run.check("stage_diff");
      EXPECT_EQ(outcome.state, CheckState::kFail) << tap << " " << knobs;
      EXPECT_EQ(first_failure(outcome).stage, tap) << knobs;
      EXPECT_TRUE(std::isnan(*first_failure(outcome).used));
    }
  }
}

TEST(StageDiff, NamesTheLostContribution) {
  for (const std::string knobs : {"mesh=dp=2,ep=2", "mesh=dp=2,ep=2 dtype=bf16"}) {
    SimulatedRun run(knobs);
    const auto place = run.first_slot(3, true);
    const Dim row = run.row_of(3, place.token, place.slot);
    const double score = run.tensor(3, "dispatch/scores_TK").at(place.token * 3 + place.slot);
    auto& partial = run.tensor(3, "combine/partial_TD");
    for (Dim d = 0; d < 14; ++d) partial.set(place.token * 14 + d, partial.at(place.token * 14 + d) - score * run.tensor(3, "experts/out_RD").at(row * 14 + d));
    run.reduce();
    const CheckOutcome outcome = run.check("stage_diff");
    ASSERT_EQ(outcome.findings.size(), 1U) << messages(outcome);
    EXPECT_EQ(outcome.findings[0].stage, "combine/partial_TD");
    EXPECT_EQ(outcome.findings[0].rank, 3);
    EXPECT_EQ(outcome.findings[0].token, 7 + place.token);
    EXPECT_THAT(outcome.findings[0].message, HasSubstr("1 of 5 rows over the bound"));
    EXPECT_THAT(outcome.findings[0].hypothesis, HasSubstr("contribution of expert " + std::to_string(place.expert)));
    EXPECT_THAT(outcome.findings[0].hypothesis, HasSubstr("missing"));
    EXPECT_GT(*outcome.findings[0].used, 1);
  }
}

TEST(StageDiff, NamesTheContributionThatIsNotWeighted) {
  SimulatedRun run("mesh=none");
  const Dim row = run.row_of(0, 6, 1);
  const double score = run.tensor(0, "dispatch/scores_TK").at(6 * 3 + 1);
  auto& partial = run.tensor(0, "combine/partial_TD");
  for (Dim d = 0; d < 14; ++d)
    partial.set(6 * 14 + d, partial.at(6 * 14 + d) + (1 - score) * run.tensor(0, "experts/out_RD").at(row * 14 + d));
  run.reduce();
  const record::Finding finding = first_failure(run.check("stage_diff"));
  EXPECT_EQ(finding.token, 6);
  EXPECT_THAT(finding.hypothesis, HasSubstr("slot 1, is not weighted by its score"));
}

TEST(HasNonfinite, FindsOneElementInEveryDtypeAndPlace) {
  for (const base::DType dtype : {base::DType::kF32, base::DType::kF64, base::DType::kBF16, base::DType::kF16}) {
    for (const Dim size : {1, 2, 3, 5, 8, 13}) {
      std::vector<double> values(static_cast<std::size_t>(size), -60000.0);
      EXPECT_FALSE(has_nonfinite(base::tensor_from_doubles(dtype, {size}, values))) << base::knob_name(dtype);
      for (const double bad : {kNaN, std::numeric_limits<double>::infinity(), -std::numeric_limits<double>::infinity()}) {
        for (std::size_t at = 0; at < values.size(); ++at) {
          auto damaged = values;
          damaged[at] = bad;
          EXPECT_TRUE(has_nonfinite(base::tensor_from_doubles(dtype, {size}, damaged))) << base::knob_name(dtype) << " " << at;
        }
      }
    }
  }
  EXPECT_FALSE(has_nonfinite(base::tensor_from_ints({1}, std::vector<std::int64_t>{-1})));
}

TEST(StageDiff, NamesARankWhosePartialResultWasNotReduced) {
  SimulatedRun run("mesh=ep=2 dtype=bf16");
  for (const Dim rank : {0, 1}) run.tensor(rank, "output/y_TD") = run.tensor(0, "combine/partial_TD");
  const CheckOutcome outcome = run.check("stage_diff");
  ASSERT_EQ(outcome.findings.size(), 2U);
  EXPECT_THAT(outcome.findings[1].hypothesis, HasSubstr("partial result of rank 1 is missing"));
}

TEST(StageDiff, NotesTheStagesThatItCouldNotJudge) {
  SimulatedRun run("mesh=ep=2");
  for (auto& rank : run.observed.ranks) rank.taps.erase("experts/gate_up_RG");
  const CheckOutcome outcome = run.check("stage_diff");
  EXPECT_EQ(outcome.state, CheckState::kPass) << messages(outcome);
  EXPECT_THAT(outcome.note, HasSubstr("not shown by any rank: experts/gate_up_RG"));
  EXPECT_THAT(outcome.note, HasSubstr("experts/act_RF of rank 1 not judged"));
}

TEST(StageDiff, NamesSwappedGateAndUp) {
  SimulatedRun run("mesh=ep=2");
  auto& gate_up = run.tensor(1, "experts/gate_up_RG");
  for (Dim f = 0; f < 10; ++f) {
    const double gate = gate_up.at(2 * 20 + f);
    gate_up.set(2 * 20 + f, gate_up.at(2 * 20 + 10 + f));
    gate_up.set(2 * 20 + 10 + f, gate);
  }
  const CheckOutcome outcome = run.check("stage_diff");
  EXPECT_EQ(first_failure(outcome).stage, "experts/gate_up_RG");
  EXPECT_EQ(first_failure(outcome).rank, 1);
  EXPECT_EQ(first_failure(outcome).expert, run.tensor(1, "dispatch/rows_R3").int_at(2 * 3 + 2));
  EXPECT_EQ(first_failure(outcome).hypothesis, "gate and up are swapped");
}

TEST(StageDiff, NamesTheRatioOfADoubledStage) {
  SimulatedRun run("mesh=ep=3");
  auto& out = run.tensor(2, "experts/out_RD");
  for (Dim i = 0; i < out.numel(); ++i) out.set(i, 2 * out.at(i));
  run.combine_and_reduce();
  const CheckOutcome outcome = run.check("stage_diff");
  ASSERT_EQ(outcome.findings.size(), 1U) << messages(outcome);
  EXPECT_EQ(outcome.findings[0].rank, 2);
  EXPECT_EQ(outcome.findings[0].hypothesis, "2 times the expected value");
}

TEST(StageDiff, NamesTheRowWhoseValuesStandThere) {
  SimulatedRun run("mesh=none dtype=bf16");
  auto& x_TD = run.tensor(0, "input/x_TD");
  for (Dim d = 0; d < 14; ++d) x_TD.set(3 * 14 + d, x_TD.at(5 * 14 + d));
  EXPECT_EQ(first_failure(run.check("stage_diff")).token, 3);
  EXPECT_EQ(first_failure(run.check("stage_diff")).hypothesis, "equals the value of token 5");
}

TEST(StageDiff, ComparesTheOutputOfExactValuesWithTheWholeLayer) {
  SimulatedRun run("mesh=ep=2 values=exact top_k=2 dtype=bf16");
  run.tensor(0, "experts/out_RD").set(0, run.tensor(0, "experts/out_RD").at(0) + 64);
  run.combine_and_reduce();
  // A subject that does not show its experts: only the whole layer tells.
  for (auto& rank : run.observed.ranks)
    for (const std::string tap : {"experts/gate_up_RG", "experts/act_RF", "experts/out_RD"}) rank.taps.erase(tap);
  const CheckOutcome outcome = run.check("stage_diff");
  ASSERT_EQ(outcome.findings.size(), 2U) << messages(outcome);  // both ranks have the wrong sum
  EXPECT_EQ(outcome.findings[0].tensor, "end_to_end");
  EXPECT_EQ(outcome.findings[0].stage, "output/y_TD");
  EXPECT_EQ(outcome.findings[0].bound, 0);
}

TEST(StageDiff, IsVacuousIfAllThatItComparesIsZero) {
  SimulatedRun run("mesh=none");
  const std::vector<double> zeros(7 * 14, 0.0);
  const base::HostTensor zero_TD = base::tensor_from_doubles(base::DType::kF32, {7, 14}, zeros);
  trace::Trace observed;
  observed.ranks.resize(1);
  observed.ranks[0].taps["combine/partial_TD"] = {zero_TD, {}, {7, 14}};
  observed.ranks[0].taps["output/y_TD"] = observed.ranks[0].taps["combine/partial_TD"];
  trace::Expected expected;
  expected.ranks.resize(1);
  const base::HostTensor wide = base::tensor_from_doubles(base::DType::kF64, {7, 14}, zeros);
  expected.ranks[0].taps["output/y_TD"] = {wide, wide, 1, std::vector<std::uint8_t>(7, 1)};
  EXPECT_EQ(find_check("stage_diff")->run({run.one, expected, observed, {}}).state, CheckState::kVacuous);
}

void move_choice(SimulatedRun& run, Dim rank, Dim token, Dim to) { run.tensor(rank, "router/ids_TK").set(token * 3 + 2, static_cast<double>(to)); }

Dim worst_expert(SimulatedRun& run, Dim token) {
  const auto& logits = run.tensor(0, "router/logits_TE");
  Dim worst = 0;
  for (Dim e = 0; e < 12; ++e)
    if (logits.at(token * 12 + e) < logits.at(token * 12 + worst)) worst = e;
  return worst;
}

TEST(RoutingTies, ReportsAnExpertThatIsNotInTheTopK) {
  SimulatedRun run("mesh=ep=2 dtype=bf16");
  const Dim worst = worst_expert(run, 4);
  move_choice(run, 0, 4, worst);
  const CheckOutcome outcome = run.check("routing_ties");
  ASSERT_EQ(outcome.findings.size(), 1U) << messages(outcome);
  EXPECT_EQ(outcome.findings[0].rank, 0);
  EXPECT_EQ(outcome.findings[0].token, 4);
  EXPECT_EQ(outcome.findings[0].expert, worst);
}

TEST(RoutingTies, ReportsAChoiceThatOnlyWrongLogitsSupport) {
  SimulatedRun run("mesh=ep=2");
  const Dim worst = worst_expert(run, 2);
  run.tensor(1, "router/logits_TE").set(2 * 12 + worst, run.tensor(1, "router/logits_TE").at(2 * 12 + run.id(1, 2, 2)));
  move_choice(run, 1, 2, worst);
  const CheckOutcome outcome = run.check("routing_ties");
  ASSERT_EQ(outcome.findings.size(), 1U) << messages(outcome);
  EXPECT_EQ(outcome.findings[0].rank, 1);
  EXPECT_EQ(outcome.findings[0].expert, worst);
  EXPECT_THAT(outcome.findings[0].message, HasSubstr("no rounding of the logits admits"));
}

TEST(RoutingTies, CountsAnotherChoiceAmongTiesAsABenignFlip) {
  SimulatedRun run("mesh=ep=2 routing=ties");
  // The token's tie: the expert outside the top-k with the logit of the last one inside.
  const auto& logits = run.tensor(0, "router/logits_TE");
  const Dim last = run.id(0, 1, 2);
  Dim tied = -1;
  for (Dim e = 0; e < 12; ++e)
    if (e != last && logits.at(12 + e) == logits.at(12 + last)) tied = e;
  ASSERT_GE(tied, 0);
  for (const Dim rank : {0, 1}) move_choice(run, rank, 1, tied);
  const CheckOutcome outcome = run.check("routing_ties");
  EXPECT_EQ(outcome.state, CheckState::kPass);
  ASSERT_EQ(outcome.findings.size(), 2U) << messages(outcome);
  EXPECT_EQ(outcome.findings[0].cls, record::FindingClass::kBenignFlip);
  EXPECT_EQ(outcome.findings[0].measured, 1);
}

TEST(RoutingTies, IsVacuousIfTiesWereAskedForAndNoneOccurred) {
  SimulatedRun run("mesh=ep=2");
  run.one.problem.routing = model::Routing::kTies;
  EXPECT_EQ(run.check("routing_ties").state, CheckState::kFail);  // other tokens than the case's: the reference disagrees
  const trace::Expected nothing{std::vector<trace::ExpectedRank>(2)};
  EXPECT_EQ(find_check("routing_ties")->run({run.one, nothing, run.observed, {}}).state, CheckState::kVacuous);
}

TEST(RoutingTies, ReportsScoresThatRise) {
  SimulatedRun run("mesh=ep=2");
  auto& scores = run.tensor(1, "router/scores_TK");
  const double first = scores.at(5 * 3);
  scores.set(5 * 3, scores.at(5 * 3 + 1) * 0.99);
  scores.set(5 * 3 + 1, first);
  const CheckOutcome outcome = run.check("routing_ties");
  EXPECT_EQ(first_failure(outcome).token, 5);
  EXPECT_EQ(first_failure(outcome).rank, 1);
}

}  // namespace
}  // namespace moecheck::check
