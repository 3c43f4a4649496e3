#include "harness/model/problem.h"

#include <gtest/gtest.h>

namespace moecheck::model {
namespace {

Problem problem(std::string_view mesh, std::vector<Dim> tokens) {
  Problem one;
  one.mesh = Mesh::parse(mesh).value();
  one.tokens_per_rank = std::move(tokens);
  return one;
}

TEST(Problem, RanksOfOneDataParallelGroupShareTheirTokens) {
  const Problem one = problem("dp=2,ep=2", {7, 5});
  EXPECT_EQ(one.num_tokens(0), 7);
  EXPECT_EQ(one.num_tokens(1), 7);
  EXPECT_EQ(one.num_tokens(2), 5);
  EXPECT_EQ(one.first_token(1), 0);
  EXPECT_EQ(one.first_token(3), 7);
}

TEST(Problem, FollowsTheMeshWhereDataParallelIsInnermost) {
  const Problem one = problem("ep=2,dp=2", {7, 5});
  EXPECT_EQ(one.num_tokens(1), 5);
  EXPECT_EQ(one.num_tokens(2), 7);
}

TEST(Problem, CyclesTheTokensOverMoreRanksThanGiven) {
  const Problem one = problem("dp=3", {6, 0});
  EXPECT_EQ(one.num_tokens(2), 6);
  EXPECT_EQ(one.first_token(2), 6);
}

TEST(Problem, WithoutDataParallelAllRanksHaveTheFirstTokens) {
  const Problem one = problem("ep=4", {7, 5});
  for (Dim rank = 0; rank < 4; ++rank) {
    EXPECT_EQ(one.num_tokens(rank), 7);
    EXPECT_EQ(one.first_token(rank), 0);
  }
}

TEST(Problem, ShardsTheTokensOverTheDimensionsThatItNames) {
  Problem one = problem("dp=2,ep=2,tp=2", {7, 5, 3});
  one.token_dims = {"dp", "fsdp", "ep"};
  EXPECT_EQ(one.token_dims_text(), "dp,fsdp,ep");
  EXPECT_EQ(one.num_tokens(0), 7);
  EXPECT_EQ(one.num_tokens(1), 7) << "differs in tp only";
  EXPECT_EQ(one.num_tokens(2), 5);
  EXPECT_EQ(one.num_tokens(4), 3);
  EXPECT_EQ(one.num_tokens(6), 7) << "the fourth shard begins the list again";
  EXPECT_EQ(one.first_token(6), 15);
  EXPECT_EQ(one.total_tokens(), 22);
  EXPECT_TRUE(one.shards_tokens("ep"));
  EXPECT_FALSE(one.shards_tokens("tp"));
  EXPECT_FALSE(one.shards_tokens("fsdp")) << "the mesh has no such dimension";
}

TEST(Problem, FirstNamedTokenDimensionIsOutermost) {
  Problem one = problem("dp=2,ep=2", {1, 2, 4, 8});
  one.token_dims = {"ep", "dp"};
  EXPECT_EQ(one.num_tokens(1), 4) << "dp 0, ep 1 is shard 2";
  EXPECT_EQ(one.first_token(1), 3);
}

TEST(Problem, LayerGroupDiffersInExpertAndTensorParallelismOnly) {
  const Problem one = problem("dp=2,ep=2,tp=2", {7});
  EXPECT_EQ(one.layer_group(6), (std::vector<Dim>{4, 5, 6, 7}));
  EXPECT_EQ(problem("dp=2,fsdp=2", {7}).layer_group(3), (std::vector<Dim>{3}));
}

TEST(Problem, TensorParallelismCutsExpertsOrIsLentToExpertParallelism) {
  Problem one = problem("ep=2,tp=2", {7});
  EXPECT_TRUE(one.cuts_experts());
  EXPECT_EQ(one.expert_dims(), "ep");
  one.expert_tp = ExpertTp::kOne;
  EXPECT_FALSE(one.cuts_experts());
  EXPECT_EQ(one.expert_dims(), "ep,tp");
  one.mesh = Mesh::parse("ep=2").value();
  EXPECT_EQ(one.expert_dims(), "ep") << "there is no tp to lend";
}

TEST(ModelSpec, NamesTheTensorOfAnExpert) {
  EXPECT_EQ(expert_tensor_name("layers.0.experts.{e}.w1.weight", 11), "layers.0.experts.11.w1.weight");
}

TEST(ModelSpecDeathTest, AbortsOnAPatternWithoutAnExpert) { EXPECT_DEATH(expert_tensor_name("layers.0.w1", 1), "layers.0.w1"); }

}  // namespace
}  // namespace moecheck::model
