// expert_census, path_taken and replica_agreement on damaged parameters.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <numeric>

#include "simulated_run.h"

namespace moecheck::check {
namespace {

using model::Dim;
using record::CheckState;
using testing::HasSubstr;

const std::string kGateUp = "param/experts/gate_up_EGD";
const std::string kDown = "param/experts/down_EDF";

std::vector<Dim> range(Dim first, Dim count) {
  std::vector<Dim> all(static_cast<std::size_t>(count));
  std::iota(all.begin(), all.end(), first);
  return all;
}

// The experts that a rank holds, whole.
void hold(SimulatedRun& run, Dim rank, Dim first, Dim count) {
  const auto& m = run.one.problem.model;
  run.tensor(rank, kGateUp) = run.experts_part(kGateUp, range(first, count), range(0, 2 * m.d_ff), range(0, m.d_model));
  run.tensor(rank, kDown) = run.experts_part(kDown, range(first, count), range(0, m.d_model), range(0, m.d_ff));
}

record::ExpertCell cell_of(const CheckOutcome& outcome, Dim rank, Dim expert) {
  for (const auto& cell : outcome.experts)
    if (cell.rank == rank && cell.expert == expert) return cell;
  return {};
}

// transformers#45662: rank 0's experts were broadcast over everyone's.
TEST(ExpertCensus, NamesTheExpertsThatOverwroteOthers) {
  SimulatedRun run("mesh=ep=2 dtype=bf16");
  hold(run, 1, 0, 6);
  const CheckOutcome outcome = run.check("expert_census");
  ASSERT_EQ(outcome.findings.size(), 1U) << messages(outcome);
  EXPECT_EQ(outcome.findings[0].rank, 1);
  EXPECT_EQ(outcome.findings[0].expert, 6);
  EXPECT_THAT(outcome.findings[0].message, HasSubstr("experts 6..11 hold experts 0..5"));
  EXPECT_EQ(cell_of(outcome, 1, 7).holds, "expert 1");
  EXPECT_EQ(cell_of(outcome, 1, 7).wrong_rows, 2 * 10 + 14);
  EXPECT_EQ(cell_of(outcome, 0, 1).wrong_rows, 0);
}

// transformers#45473: the slice was chosen by the device index, which is not the mesh-local rank on dp=2,ep=2.
TEST(ExpertCensus, NamesTheSliceChosenByTheWrongRank) {
  SimulatedRun run("mesh=dp=2,ep=2");
  hold(run, 2, 6, 6);
  const CheckOutcome outcome = run.check("expert_census");
  ASSERT_EQ(outcome.findings.size(), 1U) << messages(outcome);
  EXPECT_EQ(outcome.findings[0].rank, 2);
  EXPECT_THAT(outcome.findings[0].message, HasSubstr("experts 0..5 hold experts 6..11"));
}

TEST(ExpertCensus, CountsTheExpertsOfASliceOfTheWrongLength) {
  SimulatedRun run("mesh=ep=2");
  hold(run, 1, 6, 3);
  const CheckOutcome outcome = run.check("expert_census");
  EXPECT_EQ(outcome.state, CheckState::kFail);
  EXPECT_EQ(first_failure(outcome).rank, 1);
  EXPECT_THAT(first_failure(outcome).message, HasSubstr("holds 3 experts, declared 6 (experts 6..11)"));
  EXPECT_EQ(first_failure(outcome).got, 3);
}

// transformers#46290: a contiguous shard of the packed dim gives rank 0 only gates and rank 1 only ups.
TEST(ExpertCensus, SeesAContiguousShardOfPackedGateAndUp) {
  SimulatedRun run("mesh=tp=2");
  for (const Dim rank : {0, 1}) run.tensor(rank, kGateUp) = run.experts_part(kGateUp, range(0, 12), range(rank * 10, 10), range(0, 14));
  const CheckOutcome outcome = run.check("expert_census");
  ASSERT_EQ(outcome.findings.size(), 2U) << messages(outcome);
  EXPECT_EQ(outcome.findings[0].rank, 0);
  EXPECT_THAT(outcome.findings[0].message, HasSubstr("experts 0..11: up rows 0..4 hold gate rows 5..9"));
  EXPECT_EQ(outcome.findings[1].rank, 1);
  EXPECT_THAT(outcome.findings[1].message, HasSubstr("gate rows 5..9 hold up rows 0..4"));
}

TEST(ExpertCensus, SeesTheColumnsOfAnotherTensorParallelRank) {
  SimulatedRun run("mesh=tp=2 dtype=bf16");
  run.tensor(1, kDown) = run.experts_part(kDown, range(0, 12), range(0, 14), range(0, 5));
  const CheckOutcome outcome = run.check("expert_census");
  ASSERT_EQ(outcome.findings.size(), 1U) << messages(outcome);
  EXPECT_EQ(outcome.findings[0].stage, kDown);
  EXPECT_THAT(outcome.findings[0].message, HasSubstr("experts 0..11 hold experts 0..11 as tp rank 0 slices it"));
}

TEST(ExpertCensus, SeesGateAndUpSwappedInOneExpert) {
  SimulatedRun run("mesh=ep=3");
  auto rows = range(10, 10);
  for (const Dim row : range(0, 10)) rows.push_back(row);
  const base::HostTensor swapped = run.experts_part(kGateUp, {5}, rows, range(0, 14));
  for (Dim i = 0; i < swapped.numel(); ++i) run.tensor(1, kGateUp).set(swapped.numel() + i, swapped.at(i));
  const CheckOutcome outcome = run.check("expert_census");
  ASSERT_EQ(outcome.findings.size(), 1U) << messages(outcome);
  EXPECT_EQ(outcome.findings[0].expert, 5);
  EXPECT_THAT(outcome.findings[0].message, HasSubstr("gate rows 0..9 hold up rows 0..9"));
  EXPECT_THAT(outcome.findings[0].message, HasSubstr("up rows 0..9 hold gate rows 0..9"));
}

TEST(ExpertCensus, SeesOneChangedElementOfTheRouterAndOneOfAnExpert) {
  SimulatedRun run("mesh=ep=2 values=exact top_k=2 dtype=bf16");
  run.tensor(1, "param/router/w_ED").set(3 * 14 + 2, 0.5);
  run.tensor(0, kDown).set((4 * 14 + 13) * 10 + 1, std::numeric_limits<double>::quiet_NaN());
  const CheckOutcome outcome = run.check("expert_census");
  ASSERT_EQ(outcome.findings.size(), 2U) << messages(outcome);
  EXPECT_EQ(outcome.findings[0].expert, 4);
  EXPECT_THAT(outcome.findings[0].message, HasSubstr("row 13 holds nobody's values"));
  EXPECT_EQ(outcome.findings[1].rank, 1);
  EXPECT_EQ(outcome.findings[1].stage, "param/router/w_ED");
}

TEST(ExpertCensus, IsUnobservedWithoutExpertWeights) {
  SimulatedRun run("mesh=ep=2");
  for (auto& rank : run.observed.ranks) {
    rank.taps.erase(kGateUp);
    rank.taps.erase(kDown);
  }
  const CheckOutcome outcome = run.check("expert_census");
  EXPECT_EQ(outcome.state, CheckState::kUnobserved);
  EXPECT_THAT(outcome.note, HasSubstr(kGateUp));
}

TEST(ExpertCensus, ReportsTheRankThatAloneShowsNoExperts) {
  SimulatedRun run("mesh=ep=2");
  run.observed.ranks[1].taps.erase(kDown);
  const CheckOutcome outcome = run.check("expert_census");
  EXPECT_EQ(first_failure(outcome).rank, 1);
  EXPECT_EQ(first_failure(outcome).stage, kDown);
}

// transformers#45473, discussion: a missing module entry silently fell back to eager.
TEST(PathTaken, ReportsTheRankThatFellBack) {
  SimulatedRun run("mesh=ep=2 experts_backend=grouped_mm");
  run.observed.ranks[1].experts_backend = "eager";
  const CheckOutcome outcome = run.check("path_taken");
  ASSERT_EQ(outcome.findings.size(), 1U) << messages(outcome);
  EXPECT_EQ(outcome.findings[0].rank, 1);
  EXPECT_EQ(outcome.findings[0].cls, record::FindingClass::kContract);
  EXPECT_EQ(outcome.findings[0].message, "asked for experts_backend grouped_mm, eager ran");
}

TEST(PathTaken, ReportsARankThatDoesNotSayWhatRan) {
  SimulatedRun run("mesh=ep=2");
  run.observed.ranks[0].implementation = "";
  EXPECT_EQ(first_failure(run.check("path_taken")).rank, 0);
}

TEST(ReplicaAgreement, NamesTheRankWhoseRouterDrifted) {
  SimulatedRun run("mesh=ep=3");
  auto& router = run.tensor(0, "param/router/w_ED");
  router.set(5 * 14 + 4, router.at(5 * 14 + 4) * (1 + 0x1p-20));
  const CheckOutcome outcome = run.check("replica_agreement");
  ASSERT_EQ(outcome.findings.size(), 1U) << messages(outcome);
  EXPECT_EQ(outcome.findings[0].rank, 0);  // ranks 1 and 2 agree
  EXPECT_EQ(outcome.findings[0].expert, 5);
  EXPECT_THAT(outcome.findings[0].message, HasSubstr("rank 1"));
}

TEST(ReplicaAgreement, ComparesExpertsOfDataParallelReplicasOnly) {
  SimulatedRun run("mesh=dp=2,ep=2");
  run.tensor(3, kDown).set(0, 42);
  run.tensor(2, "output/y_TD").set(3 * 14 + 1, 42);
  const CheckOutcome outcome = run.check("replica_agreement");
  ASSERT_EQ(outcome.findings.size(), 2U) << messages(outcome);
  EXPECT_EQ(outcome.findings[0].rank, 3);
  EXPECT_EQ(outcome.findings[0].expert, 6);
  EXPECT_THAT(outcome.findings[0].message, HasSubstr("rank 1"));
  EXPECT_EQ(outcome.findings[1].rank, 3);
  EXPECT_EQ(outcome.findings[1].token, 7 + 3);
  EXPECT_THAT(outcome.findings[1].message, HasSubstr("rank 2"));
}

}  // namespace
}  // namespace moecheck::check
