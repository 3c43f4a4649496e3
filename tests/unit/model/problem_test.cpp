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

TEST(ModelSpec, NamesTheTensorOfAnExpert) {
  EXPECT_EQ(expert_tensor_name("layers.0.experts.{e}.w1.weight", 11), "layers.0.experts.11.w1.weight");
}

TEST(ModelSpecDeathTest, AbortsOnAPatternWithoutAnExpert) { EXPECT_DEATH(expert_tensor_name("layers.0.w1", 1), "layers.0.w1"); }

}  // namespace
}  // namespace moecheck::model
