#include "harness/checkpoint/expert_moves.h"

#include <gtest/gtest.h>

#include "harness/base/philox.h"
#include "harness/checkpoint/expert_names.h"

namespace moecheck::checkpoint {
namespace {

using base::DType;

// Weights that tell experts apart, as independent ones do; `noise` moves them by that part of their size.
base::HostTensor weights(std::uint32_t seed, DType dtype = DType::kF32, double noise = 0) {
  base::HostTensor tensor(dtype, {4, 8});
  for (std::uint32_t i = 0; i < 32; ++i) {
    const auto word = base::philox4x32_10({i, seed, 0, 0}, {1, 2});
    tensor.set(i, (word[0] / 0x1p32 - 0.5) * (1 + noise * (word[1] / 0x1p32 - 0.5)));
  }
  return tensor;
}

// Expert at each place, by seed.
TensorsOfExperts experts(const std::vector<std::uint32_t>& seeds, DType dtype = DType::kF32) {
  TensorsOfExperts tensors;
  for (std::size_t e = 0; e < seeds.size(); ++e) tensors.emplace(e, weights(seeds[e], dtype));
  return tensors;
}

std::string text_of(const std::vector<std::uint32_t>& a, const std::vector<std::uint32_t>& b) { return match_text(match_experts(experts(a), experts(b))); }

TEST(ExpertMoves, SayNothingOfExpertsThatStayed) { EXPECT_EQ(text_of({0, 1, 2}, {0, 1, 2}), ""); }

TEST(ExpertMoves, NamePermutationsByTheirCycles) {
  EXPECT_EQ(text_of({0, 1, 2, 3}, {1, 0, 2, 3}), "permuted: 0<->1");
  EXPECT_EQ(text_of({0, 1, 2, 3}, {2, 0, 1, 3}), "permuted: 0->1->2->0");
  EXPECT_EQ(text_of({0, 1, 2, 3}, {2, 3, 0, 1}), "permuted: 0<->2, 1<->3");
}

TEST(ExpertMoves, NameExpertsThatWereRenumbered) {
  EXPECT_EQ(text_of({0, 1, 2, 3, 4, 5, 6, 7}, {4, 5, 6, 7}), "experts 4..7 of A are experts 0..3 of B; nowhere in B: experts 0..3 of A");
  EXPECT_EQ(text_of({4, 5}, {0, 4, 5, 1}), "experts 0..1 of A are experts 1..2 of B; none of A's: experts 0, 3 of B");
}

TEST(ExpertMoves, NameCopies) {
  EXPECT_EQ(text_of({0, 1, 2, 3}, {0, 1, 0, 1}), "experts 0..1 of A are also experts 2..3 of B; nowhere in B: experts 2..3 of A");
  EXPECT_EQ(text_of({0, 1}, {0, 0}), "expert 0 of A is also expert 1 of B; nowhere in B: expert 1 of A");
}

TEST(ExpertMoves, SayNothingWhereExpertsAreNew) {
  const ExpertMatch match = match_experts(experts({0, 1}), experts({7, 8}));
  EXPECT_TRUE(match.moves.empty());
  EXPECT_EQ(match.unmatched_b, (std::set<std::int64_t>{0, 1}));
}

TEST(ExpertMoves, LeaveEqualExpertsAtTheirPlaces) {
  EXPECT_EQ(text_of({5, 5, 5, 1}, {5, 5, 5, 2}), "") << "all of them match each other";
}

TEST(ExpertMoves, RecogniseExpertsThroughACastAndSaySo) {
  EXPECT_EQ(match_text(match_experts(experts({0, 1, 2}), experts({1, 0, 2}, DType::kBF16))), "permuted: 0<->1 (alike, not equal)");
  TensorsOfExperts trained = experts({0, 1});
  trained[0] = weights(1, DType::kF32, 0.1);
  trained[1] = weights(0, DType::kF32, 0.1);
  EXPECT_EQ(match_text(match_experts(experts({0, 1}), trained)), "permuted: 0<->1 (alike, not equal)");
}

TEST(ExpertMoves, TakeATrainedExpertForNoMoveAndNotForEqual) {
  TensorsOfExperts trained = experts({0, 1});
  trained[0] = weights(0, DType::kF32, 0.1);
  const ExpertMatch match = match_experts(experts({0, 1}), trained);
  EXPECT_TRUE(match.moves.empty());
  EXPECT_FALSE(match.is_rest_equal);
}

TEST(ExpertNames, AreReadFromTheSegmentsOfAName) {
  const auto one = expert_name("model.layers.0.mlp.experts.13.gate_proj.weight", {4, 8});
  ASSERT_TRUE(one);
  EXPECT_EQ(one->group, "model.layers.0.mlp.experts");
  EXPECT_EQ(one->expert, 13);
  EXPECT_EQ(one->part, "gate_proj.weight");
  EXPECT_EQ(folded_name("model.layers.0.mlp.experts.13.gate_proj.weight", *one, "0..7"), "model.layers.0.mlp.experts.{0..7}.gate_proj.weight");
  const auto packed = expert_name("model.layers.0.mlp.experts.gate_up_proj", {8, 4, 8});
  ASSERT_TRUE(packed);
  EXPECT_EQ(packed->group, "model.layers.0.mlp.experts");
  EXPECT_FALSE(packed->expert);
  EXPECT_EQ(packed->part, "gate_up_proj");
  EXPECT_EQ(expert_name("experts/w_down_EDF", {8, 4, 8})->group, "experts");
}

TEST(ExpertNames, AreNotSeenInOtherTensors) {
  EXPECT_FALSE(expert_name("model.layers.0.mlp.gate.weight", {8, 4}));
  EXPECT_FALSE(expert_name("model.layers.0.mlp.shared_experts.up_proj.weight", {8, 4, 4}));
  EXPECT_FALSE(expert_name("model.layers.0.mlp.experts.gate_up_proj_bias", {8, 4}));
  EXPECT_FALSE(expert_name("", {}));
}

TEST(ExpertNames, AreWrittenAsRanges) {
  EXPECT_EQ(ranges_text({0, 1, 2, 5, 7, 8}), "0..2, 5, 7..8");
  EXPECT_EQ(ranges_text({}), "none");
}

}  // namespace
}  // namespace moecheck::checkpoint
