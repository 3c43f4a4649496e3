// Layers whose tokens are gathered, or whose rows travel: sound ones are silent, damaged ones are named.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>

#include "simulated_run.h"

namespace moecheck::check {
namespace {

using base::HostTensor;
using model::Dim;
using record::CheckState;
using testing::HasSubstr;

struct Layout {
  Dispatch how;
  std::string knobs;
  bool is_all_sharded = false;   // no two ranks hold the same of anything
};

// Checks that look at what moved where, and need no expected value.
constexpr std::array kMovement = {"shape_pairing", "token_conservation", "replica_agreement", "nonfinite", "expert_census"};

class SoundLayer : public testing::TestWithParam<Layout> {};

TEST_P(SoundLayer, KeepsTheChecksOfMovementSilent) {
  const SimulatedRun run(GetParam().knobs, GetParam().how);
  const bool has_replicas = !GetParam().is_all_sharded;
  for (const std::string check : kMovement) {
    const CheckOutcome outcome = run.check_observed(check);
    const bool applies = has_replicas || check != "replica_agreement";
    EXPECT_EQ(outcome.state, applies ? CheckState::kPass : CheckState::kNotApplicable) << check << ": " << messages(outcome) << outcome.note;
    EXPECT_EQ(outcome.compared > 0, applies) << check;
  }
}

TEST_P(SoundLayer, PassesTheWholeJudge) {
  const record::CaseRecord one = SimulatedRun(GetParam().knobs, GetParam().how).judged();
  std::string text = one.reason;
  for (const auto& f : one.findings) text += "\n" + f.check + " " + f.stage + " rank " + std::to_string(f.rank.value_or(-1)) + ": " + f.message;
  EXPECT_EQ(one.verdict, record::Verdict::kPass) << text;
}

INSTANTIATE_TEST_SUITE_P(
    Layouts, SoundLayer,
    testing::Values(Layout{Dispatch::kOwnTokens, "mesh=ep=2,tp=2"}, Layout{Dispatch::kOwnTokens, "mesh=ep=3,tp=2 expert_tp=one"},
                    Layout{Dispatch::kOwnTokens, "mesh=fsdp=2,ep=2 dtype=bf16"}, Layout{Dispatch::kOwnTokens, "mesh=fsdp=3", true},
                    Layout{Dispatch::kOwnTokens, "mesh=dp=2,fsdp=2,ep=2"},
                    Layout{Dispatch::kOwnTokens, "mesh=ep=2 apply_scores=before_experts dtype=bf16"},
                    Layout{Dispatch::kGathered, "mesh=ep=2 tokens_over=dp,fsdp,ep"}, Layout{Dispatch::kGathered, "mesh=tp=2 tokens_over=dp,fsdp,tp dtype=bf16"},
                    Layout{Dispatch::kGathered, "mesh=dp=2,ep=2,tp=2 tokens_over=dp,fsdp,ep,tp tokens=3,0,5,2"},
                    Layout{Dispatch::kGathered, "mesh=ep=2,tp=2 tokens_over=dp,fsdp,ep"},
                    Layout{Dispatch::kAllToAll, "mesh=ep=2 tokens_over=dp,fsdp,ep"}, Layout{Dispatch::kAllToAll, "mesh=ep=4 tokens_over=dp,fsdp,ep tokens=3,0,5,2"},
                    Layout{Dispatch::kAllToAll, "mesh=fsdp=2,ep=2 tokens_over=dp,fsdp,ep dtype=bf16", true},
                    Layout{Dispatch::kAllToAll, "mesh=ep=2"}, Layout{Dispatch::kAllToAll, "mesh=ep=2,tp=2 tokens_over=dp,fsdp,ep"},
                    Layout{Dispatch::kAllToAll, "mesh=ep=2,tp=2"},
                    Layout{Dispatch::kAllToAll, "mesh=ep=2,tp=2 expert_tp=one tokens_over=dp,fsdp,ep"},
                    Layout{Dispatch::kAllToAll, "mesh=ep=2 tokens_over=dp,fsdp,ep apply_scores=before_experts"}));

HostTensor with_rows(const HostTensor& tensor, const std::vector<Dim>& rows) {
  base::Shape shape = tensor.shape();
  shape[0] = static_cast<Dim>(rows.size());
  HostTensor picked(tensor.dtype(), shape);
  const Dim columns = tensor.numel() / tensor.dim(0);
  for (std::size_t r = 0; r < rows.size(); ++r)
    for (Dim c = 0; c < columns; ++c) picked.set(static_cast<Dim>(r) * columns + c, tensor.at(rows[r] * columns + c));
  return picked;
}

std::vector<Dim> all_rows(const HostTensor& tensor) {
  std::vector<Dim> rows(static_cast<std::size_t>(tensor.dim(0)));
  for (std::size_t r = 0; r < rows.size(); ++r) rows[r] = static_cast<Dim>(r);
  return rows;
}

// The rows of a rank's row taps become those that `rows` names.
void pick_rows(SimulatedRun& run, Dim rank, const std::vector<Dim>& rows) {
  for (const std::string tap : {"dispatch/rows_R3", "experts/in_RD", "experts/gate_up_RG", "experts/act_RF", "experts/out_RD"})
    run.tensor(rank, tap) = with_rows(run.tensor(rank, tap), rows);
}

constexpr std::string_view kAllToAllKnobs = "mesh=ep=2 tokens_over=dp,fsdp,ep";

TEST(TokenConservation, ReportsTheRowThatTravelledTwice) {
  SimulatedRun run(std::string(kAllToAllKnobs), Dispatch::kAllToAll);
  auto rows = all_rows(run.tensor(1, "dispatch/rows_R3"));
  const Dim twice = rows.back();
  const Dim token = run.tensor(1, "dispatch/rows_R3").int_at(3 * twice);
  rows.push_back(twice);
  pick_rows(run, 1, rows);
  const record::Finding finding = first_failure(run.check_observed("token_conservation"));
  EXPECT_EQ(finding.rank, 1);
  EXPECT_EQ(finding.token, token);
  EXPECT_THAT(finding.message, HasSubstr("computed twice"));
}

TEST(TokenConservation, ReportsTheRowThatNeverArrivedFromAnotherRank) {
  SimulatedRun run(std::string(kAllToAllKnobs), Dispatch::kAllToAll);
  const HostTensor keys = run.tensor(1, "dispatch/rows_R3");
  auto rows = all_rows(keys);
  const auto of_rank_0 = std::ranges::find_if(rows, [&](Dim row) { return keys.int_at(3 * row) < 7; });
  ASSERT_NE(of_rank_0, rows.end());
  const Dim lost = *of_rank_0;
  rows.erase(of_rank_0);
  pick_rows(run, 1, rows);
  const record::Finding finding = first_failure(run.check_observed("token_conservation"));
  EXPECT_EQ(finding.rank, 1);
  EXPECT_EQ(finding.token, keys.int_at(3 * lost));
  EXPECT_EQ(finding.slot, keys.int_at(3 * lost + 1));
  EXPECT_EQ(finding.expert, keys.int_at(3 * lost + 2));
  EXPECT_THAT(finding.message, HasSubstr("never computed"));
}

TEST(TokenConservation, ReportsTheRowDeliveredToTheWrongRank) {
  SimulatedRun run("mesh=ep=3 tokens_over=dp,fsdp,ep tokens=4", Dispatch::kAllToAll);
  const HostTensor keys = run.tensor(2, "dispatch/rows_R3");
  auto rows = all_rows(keys);
  rows.erase(rows.begin());
  HostTensor received(base::DType::kI64, {run.tensor(1, "dispatch/rows_R3").dim(0) + 1, 3});
  for (Dim i = 0; i < received.numel(); ++i)
    received.set(i, i < received.numel() - 3 ? run.tensor(1, "dispatch/rows_R3").at(i) : keys.at(i - received.numel() + 3));
  pick_rows(run, 2, rows);
  auto more = all_rows(run.tensor(1, "dispatch/rows_R3"));
  more.push_back(more.back());
  pick_rows(run, 1, more);
  run.tensor(1, "dispatch/rows_R3") = received;
  const CheckOutcome outcome = run.check_observed("token_conservation");
  EXPECT_THAT(messages(outcome), HasSubstr("dispatch/rows_R3 rank 1: 1 (token, slot) pair are computed by a rank that does not hold their expert"));
  EXPECT_THAT(messages(outcome), HasSubstr("dispatch/rows_R3 rank 2: 1 (token, slot) pair of local experts are never computed"));
}

TEST(TokenConservation, ReportsTheRowThatWasLostOnTheWayBack) {
  for (const std::string knobs : {"mesh=ep=2 tokens_over=dp,fsdp,ep", "mesh=ep=2,tp=2 tokens_over=dp,fsdp,ep", "mesh=ep=2,tp=2 tokens_over=dp,fsdp,ep,tp"}) {
    SimulatedRun run(knobs, Dispatch::kAllToAll);
    HostTensor& combined = run.tensor(1, "combine/rows_N3");
    const Dim token = combined.int_at(0), slot = combined.int_at(1);
    auto rows = all_rows(combined);
    rows.erase(rows.begin());
    combined = with_rows(combined, rows);
    const CheckOutcome outcome = run.check_observed("token_conservation");
    ASSERT_EQ(outcome.findings.size(), 1U) << messages(outcome);
    EXPECT_EQ(outcome.findings[0].stage, "combine/rows_N3");
    EXPECT_EQ(outcome.findings[0].rank, 1);
    EXPECT_EQ(outcome.findings[0].token, token);
    EXPECT_EQ(outcome.findings[0].slot, slot);
    EXPECT_THAT(outcome.findings[0].message, HasSubstr("never come back"));
  }
}

// A token that one rank holds, of experts that tp cuts: a part of each row comes back from either tp rank.
TEST(TokenConservation, WantsThePartsOfARowFromAllTensorParallelRanks) {
  SimulatedRun run("mesh=ep=2,tp=2 tokens_over=dp,fsdp,ep,tp", Dispatch::kAllToAll);
  const CheckOutcome outcome = run.check_observed("token_conservation");
  EXPECT_EQ(outcome.state, CheckState::kPass) << messages(outcome);
  EXPECT_EQ(run.tensor(0, "combine/rows_N3").dim(0), 7 * 3 * 2);
}

TEST(TokenConservation, ReportsTheRowThatCameBackTwice) {
  SimulatedRun run("mesh=ep=2", Dispatch::kAllToAll);   // both ranks have the token, and share the sending
  HostTensor& combined = run.tensor(1, "combine/rows_N3");
  auto rows = all_rows(combined);
  rows.push_back(0);
  combined = with_rows(combined, rows);
  const record::Finding finding = first_failure(run.check_observed("token_conservation"));
  EXPECT_EQ(finding.rank, 1);
  EXPECT_THAT(finding.message, HasSubstr("come back twice"));
}

TEST(TokenConservation, ReportsTheRowThatCameBackToAStranger) {
  SimulatedRun run(std::string(kAllToAllKnobs), Dispatch::kAllToAll);
  run.tensor(1, "combine/rows_N3").set(0, 2);   // a token of rank 0
  const CheckOutcome outcome = run.check_observed("token_conservation");
  EXPECT_THAT(messages(outcome), HasSubstr("rank that does not hold their token"));
  EXPECT_THAT(messages(outcome), HasSubstr("never come back"));
}

TEST(ShapePairing, SeesATokenGatheredTwiceAndOneThatIsMissing) {
  SimulatedRun run("mesh=ep=2 tokens_over=dp,fsdp,ep", Dispatch::kGathered);
  run.tensor(1, "dispatch/tokens_S").set(3, 4);
  const record::Finding finding = first_failure(run.check_observed("shape_pairing"));
  EXPECT_EQ(finding.stage, "dispatch/tokens_S");
  EXPECT_EQ(finding.rank, 1);
  EXPECT_EQ(finding.token, 3);
  EXPECT_THAT(finding.message, HasSubstr("gathered 0 times, declared once; 2 tokens are wrong"));
}

TEST(ShapePairing, HoldsGatheredScoresAgainstTheRankThatHasTheToken) {
  SimulatedRun run("mesh=ep=2 tokens_over=dp,fsdp,ep", Dispatch::kGathered);
  HostTensor& scores = run.tensor(0, "dispatch/scores_TK");
  Dim n = 7 * 3;   // the first slot of rank 1's tokens that is local to rank 0
  while (scores.at(n) == 0) ++n;
  scores.set(n, scores.at(n) * (1 + 0x1p-23));
  const CheckOutcome outcome = run.check_observed("shape_pairing");
  ASSERT_EQ(outcome.findings.size(), 1U) << messages(outcome);
  EXPECT_EQ(outcome.findings[0].rank, 0);
  EXPECT_EQ(outcome.findings[0].token, n / 3);
  EXPECT_EQ(outcome.findings[0].slot, n % 3);
}

TEST(ShapePairing, DoesNotAskAnAllToAllForMaskedScores) {
  const SimulatedRun run(std::string(kAllToAllKnobs), Dispatch::kAllToAll);
  const CheckOutcome outcome = run.check_observed("shape_pairing");
  EXPECT_EQ(outcome.note, "");
}

TEST(ReplicaAgreement, SeesTwoRanksThatGatheredInAnotherOrder) {
  SimulatedRun run("mesh=ep=2 tokens_over=dp,fsdp,ep", Dispatch::kGathered);
  HostTensor& tokens = run.tensor(1, "dispatch/tokens_S");
  tokens.set(0, 1);
  tokens.set(1, 0);
  const record::Finding finding = first_failure(run.check_observed("replica_agreement"));
  EXPECT_EQ(finding.stage, "dispatch/tokens_S");
  EXPECT_EQ(finding.rank, 1);
}

TEST(ExpertCensus, NamesTheSliceOfAnotherFsdpRank) {
  SimulatedRun run("mesh=fsdp=2");
  const std::string down = "param/experts/down_EDF";
  run.tensor(1, down) = run.tensor(0, down);
  const record::Finding finding = first_failure(run.check_observed("expert_census"));
  EXPECT_EQ(finding.rank, 1);
  EXPECT_THAT(finding.message, HasSubstr("as fsdp rank 0 slices it"));
}

}  // namespace
}  // namespace moecheck::check
