// shape_pairing and token_conservation on damaged dispatches.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "simulated_run.h"

namespace moecheck::check {
namespace {

using base::HostTensor;
using model::Dim;
using record::CheckState;
using testing::HasSubstr;

// transformers#45473, bug 1: scores scattered to (T, E), then cut to the local columns, while ids stay (T, K).
HostTensor scatter_and_slice(SimulatedRun& run, Dim rank) {
  const auto& m = run.one.problem.model;
  const HostTensor& scores = run.tensor(rank, "router/scores_TK");
  const Dim local = m.num_experts / run.one.problem.mesh.size("ep");
  const Dim first = run.one.problem.mesh.coordinate(rank, "ep") * local;
  HostTensor sliced(run.one.problem.dtype, {scores.dim(0), local});
  for (Dim t = 0; t < scores.dim(0); ++t)
    for (Dim s = 0; s < m.top_k; ++s)
      if (const Dim e = run.id(rank, t, s) - first; e >= 0 && e < local) sliced.set(t * local + e, scores.at(t * m.top_k + s));
  return sliced;
}

// First slot, in flat order, that gets a weight which is not its own.
SimulatedRun::Place first_mispaired(SimulatedRun& run, Dim rank, const HostTensor& given) {
  const HostTensor& right = run.tensor(rank, "dispatch/scores_TK");
  for (Dim n = 0; n < right.numel(); ++n)
    if (n >= given.numel() || given.at(n) != right.at(n))
      return {n / right.dim(1), n % right.dim(1), run.id(rank, n / right.dim(1), n % right.dim(1))};
  return {};
}

TEST(ShapePairing, NamesTheFirstSlotThatScoresOfAnotherShapeWouldMispair) {
  SimulatedRun run("mesh=ep=2 dtype=bf16");
  const HostTensor given = scatter_and_slice(run, 1);
  const auto first = first_mispaired(run, 1, given);
  run.tensor(1, "dispatch/scores_TK") = given;
  const CheckOutcome outcome = run.check("shape_pairing");
  ASSERT_EQ(outcome.findings.size(), 2U) << messages(outcome);
  EXPECT_THAT(outcome.findings[0].message, HasSubstr("shape (7, 6), declared (7, 3)"));
  EXPECT_EQ(outcome.findings[1].rank, 1);
  EXPECT_EQ(outcome.findings[1].stage, "dispatch/scores_TK");
  EXPECT_EQ(outcome.findings[1].token, first.token);
  EXPECT_EQ(outcome.findings[1].slot, first.slot);
  EXPECT_EQ(outcome.findings[1].expert, first.expert);
  EXPECT_THAT(outcome.findings[1].message, HasSubstr("scores (7, 6) beside ids (7, 3)"));
}

// With as many local experts as slots the shapes agree, and only the pairs give it away.
TEST(ShapePairing, SeesMispairedScoresOfTheRightShape) {
  SimulatedRun run("mesh=ep=4");
  const HostTensor given = scatter_and_slice(run, 2);
  ASSERT_EQ(given.shape(), run.tensor(2, "dispatch/scores_TK").shape());
  const auto first = first_mispaired(run, 2, given);
  run.tensor(2, "dispatch/scores_TK") = given;
  const CheckOutcome outcome = run.check("shape_pairing");
  ASSERT_EQ(outcome.findings.size(), 1U) << messages(outcome);
  EXPECT_EQ(outcome.findings[0].rank, 2);
  EXPECT_EQ(outcome.findings[0].token, first.token);
  EXPECT_EQ(outcome.findings[0].slot, first.slot);
  EXPECT_EQ(outcome.findings[0].expert, first.expert);
}

TEST(ShapePairing, SeesAScoreThatIsOffByOneBit) {
  SimulatedRun run("mesh=ep=2");
  const auto place = run.first_slot(0, true);
  auto& scores = run.tensor(0, "dispatch/scores_TK");
  scores.set(place.token * 3 + place.slot, scores.at(place.token * 3 + place.slot) * (1 + 0x1p-23));
  EXPECT_EQ(first_failure(run.check("shape_pairing")).expert, place.expert);
}

TEST(ShapePairing, SeesTheScoreOfAnExpertThatLivesElsewhere) {
  SimulatedRun run("mesh=ep=2");
  const auto place = run.first_slot(1, false);
  run.tensor(1, "dispatch/scores_TK").set(place.token * 3 + place.slot, 0.25);
  const CheckOutcome outcome = run.check("shape_pairing");
  EXPECT_EQ(first_failure(outcome).token, place.token);
  EXPECT_EQ(first_failure(outcome).slot, place.slot);
  EXPECT_THAT(first_failure(outcome).message, HasSubstr("lives elsewhere has a score"));
}

TEST(ShapePairing, SeesASentinelThatIsARealExpert) {
  SimulatedRun run("mesh=dp=2,ep=2");
  const auto place = run.first_slot(3, false);
  run.tensor(3, "dispatch/ids_TK").set(place.token * 3 + place.slot, 0);
  const CheckOutcome outcome = run.check("shape_pairing");
  EXPECT_EQ(first_failure(outcome).rank, 3);
  EXPECT_EQ(first_failure(outcome).token, 7 + place.token);
  EXPECT_EQ(first_failure(outcome).want, 6);
}

TEST(ShapePairing, SeesAnExpertChosenTwiceAndAnIdThatIsNone) {
  SimulatedRun run("mesh=none");
  run.tensor(0, "router/ids_TK").set(4 * 3 + 1, run.tensor(0, "router/ids_TK").at(4 * 3));
  EXPECT_THAT(first_failure(run.check("shape_pairing")).message, HasSubstr("chosen twice"));
  run.tensor(0, "router/ids_TK").set(2 * 3 + 1, 12);
  EXPECT_THAT(first_failure(run.check("shape_pairing")).message, HasSubstr("id 12 is no expert"));
  EXPECT_EQ(first_failure(run.check("shape_pairing")).token, 2);
}

TEST(ShapePairing, ReportsADtypeThatIsNotTheDeclaredOne) {
  SimulatedRun run("mesh=ep=2 dtype=bf16");
  auto& y_TD = run.tensor(1, "output/y_TD");
  y_TD = base::tensor_from_doubles(base::DType::kF32, y_TD.shape(), y_TD.to_doubles());
  const CheckOutcome outcome = run.check("shape_pairing");
  EXPECT_EQ(first_failure(outcome).cls, record::FindingClass::kContract);
  EXPECT_EQ(first_failure(outcome).rank, 1);
}

TEST(ShapePairing, NeverReadsScoresThatAreNoNumbersOrIdsThatAreFloats) {
  SimulatedRun run("mesh=ep=2");
  auto& ids = run.tensor(0, "router/ids_TK");
  ids = base::tensor_from_doubles(base::DType::kF32, ids.shape(), ids.to_doubles());
  for (const Check& check : checks()) {
    if (check.run == nullptr) continue;
    EXPECT_NE(run.check(std::string(check.name)).state, CheckState::kVacuous) << check.name;
  }
  EXPECT_THAT(first_failure(run.check("shape_pairing")).message, HasSubstr("declared int64"));
}

HostTensor without_row(const HostTensor& tensor, Dim row) {
  const Dim columns = tensor.dim(1);
  HostTensor rest(tensor.dtype(), {tensor.dim(0) - 1, columns});
  for (Dim i = 0; i < rest.numel(); ++i) rest.set(i, tensor.at(i < row * columns ? i : i + columns));
  return rest;
}

TEST(TokenConservation, NamesTheSlotThatIsNeverComputed) {
  SimulatedRun run("mesh=dp=2,ep=2");
  const auto place = run.first_slot(2, true);
  const Dim row = run.row_of(2, place.token, place.slot);
  for (const std::string tap : {"dispatch/rows_R3", "experts/in_RD", "experts/gate_up_RG", "experts/act_RF", "experts/out_RD"})
    run.tensor(2, tap) = without_row(run.tensor(2, tap), row);
  const CheckOutcome outcome = run.check("token_conservation");
  ASSERT_EQ(outcome.findings.size(), 2U) << messages(outcome);
  EXPECT_EQ(outcome.findings[0].rank, 2);
  EXPECT_EQ(outcome.findings[0].token, 7 + place.token);
  EXPECT_EQ(outcome.findings[0].slot, place.slot);
  EXPECT_EQ(outcome.findings[0].expert, place.expert);
  EXPECT_THAT(outcome.findings[0].message, HasSubstr("1 (token, slot) pair of local experts are never computed"));
  EXPECT_EQ(outcome.findings[1].stage, "dispatch/counts_e");
  EXPECT_EQ(outcome.findings[1].expert, place.expert);
}

TEST(TokenConservation, ReportsTheTokenDeliveredTwice) {
  SimulatedRun run("mesh=tp=2");
  auto& rows = run.tensor(1, "dispatch/rows_R3");
  for (Dim i = 0; i < 3; ++i) rows.set(3 + i, rows.at(i));
  const CheckOutcome outcome = run.check("token_conservation");
  EXPECT_EQ(outcome.findings[0].rank, 1);
  EXPECT_THAT(messages(outcome), HasSubstr("computed twice"));
  EXPECT_THAT(messages(outcome), HasSubstr("never computed"));
}

TEST(TokenConservation, SeesARowComputedByARankWithoutItsExpert) {
  SimulatedRun run("mesh=ep=2");
  const auto place = run.first_slot(1, false);
  auto& rows = run.tensor(1, "dispatch/rows_R3");
  const Dim column[] = {place.token, place.slot, place.expert};
  for (Dim i = 0; i < 3; ++i) rows.set(i, static_cast<double>(column[i]));
  const CheckOutcome outcome = run.check("token_conservation");
  EXPECT_THAT(messages(outcome), HasSubstr("does not hold their expert"));
  EXPECT_EQ(outcome.findings[0].rank, 1);
}

TEST(TokenConservation, SeesACountThatIsOffByOne) {
  SimulatedRun run("mesh=ep=3");
  auto& counts = run.tensor(2, "dispatch/counts_e");
  counts.set(1, counts.at(1) + 1);
  const CheckOutcome outcome = run.check("token_conservation");
  ASSERT_EQ(outcome.findings.size(), 1U);
  EXPECT_EQ(outcome.findings[0].rank, 2);
  EXPECT_EQ(outcome.findings[0].expert, 9);
}

TEST(TokenConservation, IgnoresPaddingRowsButNotesThem) {
  SimulatedRun run("mesh=ep=2");
  for (const std::string tap : {"dispatch/rows_R3", "experts/in_RD", "experts/gate_up_RG", "experts/act_RF", "experts/out_RD"}) {
    auto& tensor = run.tensor(0, tap);
    HostTensor padded(tensor.dtype(), {tensor.dim(0) + 1, tensor.dim(1)});
    for (Dim i = 0; i < padded.numel(); ++i) padded.set(i, i < tensor.numel() ? tensor.at(i) : tap == "dispatch/rows_R3" ? -1 : std::nan(""));
    tensor = padded;
  }
  const CheckOutcome outcome = run.check("token_conservation");
  EXPECT_EQ(outcome.state, CheckState::kPass) << messages(outcome);
  EXPECT_THAT(outcome.note, HasSubstr("rank 0: 1 padding rows"));
  EXPECT_EQ(run.check("nonfinite").state, CheckState::kPass) << messages(run.check("nonfinite"));
  EXPECT_EQ(run.check("stage_diff").state, CheckState::kPass) << messages(run.check("stage_diff"));
}

}  // namespace
}  // namespace moecheck::check
