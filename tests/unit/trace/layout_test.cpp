// What belongs where, by the declaration of a case, held against layouts worked out by hand.
#include "harness/trace/layout.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "harness/trace/tap_points.h"

namespace moecheck::trace {
namespace {

using model::Cut;
using testing::ElementsAre;

constexpr const char* kRouter = "param/router/w_ED";
constexpr const char* kGateUp = "param/experts/gate_up_EGD";
constexpr const char* kDown = "param/experts/down_EDF";
constexpr const char* kAttention = "param/attention/w_DD";

model::Problem problem(std::string_view mesh, std::vector<std::string> token_dims = {"dp", "fsdp"}) {
  model::Problem one;
  one.model.num_experts = 10;
  one.model.top_k = 2;
  one.model.d_model = 8;
  one.model.d_ff = 6;
  one.mesh = model::Mesh::parse(mesh).value();
  one.token_dims = std::move(token_dims);
  one.tokens_per_rank = {7, 5};
  return one;
}

std::string cuts_text(const model::Problem& one, std::string_view tap) { return model::text(declared_cuts(one, tap)); }

TEST(DeclaredCuts, ReplicateEverythingWithoutExpertsOrTensorsInParallel) {
  for (const char* tap : {kRouter, kGateUp, kDown, kAttention}) EXPECT_EQ(cuts_text(problem("dp=2"), tap), "Replicate") << tap;
}

TEST(DeclaredCuts, SpreadExpertsOverEpAndCutEachByTp) {
  const auto one = problem("ep=2,tp=2");
  EXPECT_EQ(cuts_text(one, kGateUp), "Shard(0) over ep, StridedShard(1,2) over tp");
  EXPECT_EQ(cuts_text(one, kDown), "Shard(0) over ep, Shard(2) over tp");
  EXPECT_EQ(cuts_text(one, kRouter), "Replicate");
  EXPECT_EQ(cuts_text(one, kAttention), "Shard(1) over tp");
}

TEST(DeclaredCuts, SpreadExpertsOverTpTooWhereItIsLent) {
  auto one = problem("ep=2,tp=2");
  one.expert_tp = model::ExpertTp::kOne;
  EXPECT_EQ(cuts_text(one, kGateUp), "Shard(0) over ep,tp");
  EXPECT_EQ(cuts_text(one, kDown), "Shard(0) over ep,tp");
  EXPECT_EQ(cuts_text(one, kAttention), "Shard(1) over tp") << "attention keeps its tp";
}

TEST(DeclaredCuts, ShardParametersOverFsdpLast) {
  const auto one = problem("fsdp=2,ep=2,tp=2");
  EXPECT_EQ(cuts_text(one, kGateUp), "Shard(0) over ep, StridedShard(1,2) over tp, Shard(1) over fsdp");
  EXPECT_EQ(cuts_text(one, kDown), "Shard(0) over ep, Shard(2) over tp, Shard(1) over fsdp");
  EXPECT_EQ(cuts_text(one, kRouter), "Shard(0) over fsdp");
  EXPECT_EQ(model::text(compute_cuts(one, kDown)), "Shard(0) over ep, Shard(2) over tp") << "gathered on use";
  EXPECT_EQ(model::text(compute_cuts(one, kRouter)), "Replicate");
}

TEST(DeclaredCuts, ShardWhatEveryRankUsesOverAllDataParallelRanks) {
  const auto one = problem("fsdp=2,ep=2", {"dp", "fsdp", "ep"});
  EXPECT_EQ(cuts_text(one, kRouter), "Shard(0) over fsdp,ep");
  EXPECT_EQ(cuts_text(one, kGateUp), "Shard(0) over ep, Shard(1) over fsdp");
}

TEST(DeclaredCuts, OfGradientsAndOptimizerStateAreThoseOfTheParameter) {
  const auto one = problem("fsdp=2,ep=2");
  for (const char* tap : {"grad/experts/down_EDF", "optim/m/experts/down_EDF", "optim/param/experts/down_EDF"}) {
    EXPECT_EQ(parameter_of(tap), kDown) << tap;
    EXPECT_EQ(declared_cuts(one, tap), declared_cuts(one, kDown)) << tap;
  }
  EXPECT_EQ(parameter_of("output/y_TD"), "output/y_TD");
}

TEST(DeclaredIndices, TellTheRowsThatARankHolds) {
  const auto one = problem("fsdp=2,tp=3");
  // G = 12: tp rank 1 of 3 has gate rows 2, 3 and up rows 8, 9; fsdp rank 1 the second half.
  EXPECT_THAT(declared_indices(one, kGateUp, 4, 1), ElementsAre(8, 9));
  EXPECT_THAT(declared_indices(one, kDown, 4, 2), ElementsAre(2, 3));
}

TEST(LocalExperts, AreFewerOnTheLastRanksWhereTheyDoNotDivide) {
  const auto one = problem("ep=4");
  std::vector<Dim> firsts, counts;
  for (Dim rank = 0; rank < 4; ++rank) {
    firsts.push_back(local_experts(one, rank).first);
    counts.push_back(local_experts(one, rank).count);
  }
  EXPECT_THAT(firsts, ElementsAre(0, 3, 6, 9));
  EXPECT_THAT(counts, ElementsAre(3, 3, 3, 1));
  EXPECT_EQ(local_experts(problem("ep=7"), 6).count, 0) << "2 each for the first five";
  EXPECT_EQ(*declared_shape(one, kDown, 3, {}), (base::Shape{1, 8, 6}));
}

TEST(LocalExperts, AreAgreedUponByTheCutsOfTheParameters) {
  for (const char* mesh : {"ep=4", "tp=2,ep=2", "ep=2,tp=2", "ep=7"})
    for (const model::ExpertTp expert_tp : {model::ExpertTp::kTp, model::ExpertTp::kOne}) {
      auto one = problem(mesh);
      one.expert_tp = expert_tp;
      for (Dim rank = 0; rank < one.mesh.world_size(); ++rank) {
        const LocalExperts local = local_experts(one, rank);
        const auto held = declared_indices(one, kGateUp, rank, 0);
        ASSERT_EQ(static_cast<Dim>(held.size()), local.count) << mesh << " rank " << rank;
        ASSERT_TRUE(held.empty() || held.front() == local.first) << mesh << " rank " << rank;
      }
    }
}

TEST(LocalExperts, AreTheWholeOnesWhereTpIsLent) {
  auto one = problem("ep=2,tp=2");
  one.expert_tp = model::ExpertTp::kOne;
  EXPECT_EQ(local_experts(one, 1).first, 3) << "ep 0, tp 1 is the second of four";
  EXPECT_EQ(*declared_shape(one, kGateUp, 1, {}), (base::Shape{3, 12, 8}));
  EXPECT_EQ(*declared_shape(one, "experts/gate_up_RG", 1, {.rows = 4}), (base::Shape{4, 12}));
}

TEST(DeclaredShape, OfRowsIsCutAsTheExpertsAreComputed) {
  const auto one = problem("fsdp=2,ep=2,tp=2");
  EXPECT_EQ(*declared_shape(one, "experts/gate_up_RG", 0, {.rows = 4}), (base::Shape{4, 6}));
  EXPECT_EQ(*declared_shape(one, "experts/act_RF", 0, {.rows = 4}), (base::Shape{4, 3}));
  EXPECT_EQ(*declared_shape(one, kGateUp, 0, {}), (base::Shape{5, 3, 8})) << "12 gate and up rows over tp, then fsdp";
  EXPECT_FALSE(declared_shape(one, "no/such_tap", 0, {}));
}

TEST(DeclaredShape, IsKnownForEveryTap) {
  const auto one = problem("dp=2,ep=2");
  for (const TapPoint& tap : tap_points()) EXPECT_TRUE(declared_shape(one, tap.name, 0, {})) << tap.name;
}

RankTrace rank_with_tokens(Dim rank, const std::vector<std::int64_t>& tokens) {
  RankTrace shown;
  shown.rank = rank;
  shown.taps["dispatch/tokens_S"].tensor = base::tensor_from_ints({static_cast<Dim>(tokens.size())}, tokens);
  return shown;
}

TEST(SlotTokens, AreThoseThatTheRankGathered) {
  const auto one = problem("ep=2", {"dp", "fsdp", "ep"});
  const RankTrace shown = rank_with_tokens(1, {7, 0, 11});
  EXPECT_THAT(slot_tokens(one, shown), ElementsAre(7, 0, 11));
  EXPECT_EQ(*declared_shape(one, "combine/partial_TD", 1, shown_sizes(one, shown)), (base::Shape{3, 8}));
  EXPECT_EQ(*declared_shape(one, "output/y_TD", 1, shown_sizes(one, shown)), (base::Shape{5, 8})) << "its own";
}

TEST(SlotTokens, AreItsOwnWhereItGathersNone) {
  const auto one = problem("ep=2", {"dp", "fsdp", "ep"});
  RankTrace shown;
  shown.rank = 1;
  EXPECT_THAT(slot_tokens(one, shown), ElementsAre(7, 8, 9, 10, 11));
  EXPECT_EQ(shown_sizes(one, shown).slot_tokens, 5);
}

TEST(ShownSizes, AreUnknownWhereTheSubjectIsSilent) {
  RankTrace shown;
  const auto one = problem("ep=2");
  EXPECT_EQ(shown_sizes(one, shown).rows, -1);
  EXPECT_EQ(shown_sizes(one, shown).combined, -1);
  shown.taps["combine/rows_N3"].tensor = base::HostTensor(base::DType::kI64, {4, 3});
  shown.taps["dispatch/rows_R3"].tensor = base::HostTensor(base::DType::kI64, {9});
  EXPECT_EQ(shown_sizes(one, shown).combined, 4);
  EXPECT_EQ(shown_sizes(one, shown).rows, -1) << "not a table of rows";
}

TEST(TokenGroup, HoldsTheRanksOfOneShard) {
  EXPECT_THAT(token_group(problem("dp=2,ep=2"), 2), ElementsAre(2, 3));
  EXPECT_THAT(token_group(problem("dp=2,ep=2", {"dp", "ep"}), 2), ElementsAre(2));
  EXPECT_THAT(token_group(problem("ep=2,tp=2", {"dp", "tp"}), 1), ElementsAre(1, 3));
}

TEST(ReplicaGroup, HoldsTheRanksOfOneShardOfAParameter) {
  const auto one = problem("dp=2,fsdp=2,ep=2");
  EXPECT_THAT(replica_group(one, kGateUp, 3), ElementsAre(3, 7)) << "differ in dp only";
  EXPECT_THAT(replica_group(one, "grad/router/w_ED", 3), ElementsAre(2, 3, 6, 7)) << "differ in dp and ep";
}

TEST(ReplicaGroup, PartsTheRanks) {
  for (const char* mesh : {"dp=2,fsdp=2,ep=2", "ep=2,tp=2", "fsdp=4"})
    for (const char* tap : {kRouter, kGateUp, kDown, kAttention}) {
      const auto one = problem(mesh);
      for (Dim rank = 0; rank < one.mesh.world_size(); ++rank)
        for (const Dim other : replica_group(one, tap, rank)) EXPECT_EQ(replica_group(one, tap, other), replica_group(one, tap, rank)) << mesh << " " << tap;
    }
}

}  // namespace
}  // namespace moecheck::trace
