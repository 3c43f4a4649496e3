#include "harness/model/placement.h"

#include <algorithm>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace moecheck::model {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST(Placement, ParsesWhatItPrints) {
  for (const Placement& one : {replicate(), partial(), shard(0), shard(2), strided_shard(1, 2)}) {
    const auto parsed = Placement::parse(one.text());
    ASSERT_TRUE(parsed) << one.text();
    EXPECT_EQ(*parsed, one);
  }
}

TEST(Placement, RefusesTextThatIsNoPlacement) {
  for (const char* text : {"", "replicate", "Shard", "Shard()", "Shard(a)", "Shard(0,1)", "Shard(0,)", "Shard(-1)", "Shard(0", "StridedShard(1)",
                           "StridedShard(1;2)", "StridedShard(1,0)", "Partial(sum)", "Shard(99999999999999999999)"}) {
    const auto parsed = Placement::parse(text);
    ASSERT_FALSE(parsed) << text;
    EXPECT_EQ(parsed.error().code, base::ErrorCode::kSubject);
    EXPECT_THAT(parsed.error().message, HasSubstr(std::string("'") + text + "'"));
  }
}

TEST(Placement, ShardHoldsOneContiguousPiece) {
  EXPECT_THAT(local_indices(shard(0), 6, 0, 3), ElementsAre(0, 1));
  EXPECT_THAT(local_indices(shard(0), 6, 2, 3), ElementsAre(4, 5));
}

TEST(Placement, StridedShardHoldsAPieceOfEachBlock) {
  EXPECT_THAT(local_indices(strided_shard(1, 2), 12, 1, 3), ElementsAre(2, 3, 8, 9));
}

TEST(Placement, ReplicateAndPartialHoldEverything) {
  EXPECT_THAT(local_indices(replicate(), 3, 1, 2), ElementsAre(0, 1, 2));
  EXPECT_THAT(local_indices(partial(), 3, 1, 2), ElementsAre(0, 1, 2));
}

TEST(Placement, PiecesOfAllRanksCoverEachIndexOnce) {
  for (const Placement& one : {shard(0), strided_shard(0, 2), strided_shard(0, 4)}) {
    std::vector<Dim> all;
    for (Dim c = 0; c < 3; ++c)
      for (const Dim index : local_indices(one, 24, c, 3)) all.push_back(index);
    std::ranges::sort(all);
    ASSERT_EQ(all.size(), 24U) << one.text();
    for (std::size_t i = 0; i < all.size(); ++i) EXPECT_EQ(all[i], static_cast<Dim>(i));
  }
}

TEST(Placement, ShardsThatDoNotDivideLeaveTheLastRanksLess) {
  EXPECT_THAT(local_indices(shard(0), 7, 0, 3), ElementsAre(0, 1, 2));
  EXPECT_THAT(local_indices(shard(0), 7, 2, 3), ElementsAre(6));
  EXPECT_THAT(local_indices(shard(0), 2, 3, 4), ElementsAre());
  EXPECT_THAT(local_indices(shard(0), 4, 2, 3), ElementsAre()) << "pieces of two: the third rank has none";
}

Mesh mesh(std::string_view text) { return Mesh::parse(text).value(); }

TEST(HeldIndices, LeaveOutDimensionsThatNoCutNames) {
  const std::vector<Cut> cuts = {{"ep", shard(0)}, {"tp", replicate()}, {"dp", partial()}};
  EXPECT_THAT(held_indices(cuts, 3, 1, mesh("ep=2,tp=2"), 3), ElementsAre(0, 1, 2));
  EXPECT_THAT(held_indices({}, 3, 0, mesh("ep=2"), 1), ElementsAre(0, 1, 2));
}

TEST(HeldIndices, NestCutsOfOneDimensionTheFirstOutermost) {
  // gate rows 0..5, up rows 6..11: tp rank 1 has 3,4,5,9,10,11, and fsdp rank 1 the second half of these.
  const std::vector<Cut> cuts = {{"tp", strided_shard(1, 2)}, {"fsdp", shard(1)}};
  const Mesh both = mesh("fsdp=2,tp=2");
  EXPECT_THAT(held_indices(cuts, 12, 1, both, 3), ElementsAre(9, 10, 11));
  EXPECT_THAT(held_indices(cuts, 12, 1, both, 1), ElementsAre(3, 4, 5));
}

TEST(HeldIndices, CountSeveralMeshDimensionsAsOne) {
  const std::vector<Cut> cuts = {{"tp,ep", shard(0)}};
  EXPECT_THAT(held_indices(cuts, 8, 0, mesh("ep=2,tp=2"), 1), ElementsAre(4, 5)) << "ep 0, tp 1 is piece 2 of 4";
  EXPECT_THAT(held_indices(cuts, 8, 0, mesh("ep=2,tp=2"), 2), ElementsAre(2, 3)) << "ep 1, tp 0 is piece 1 of 4";
}

TEST(HeldIndices, OfAllRanksCoverEachIndexAsOftenAsThereAreReplicas) {
  const std::vector<Cut> cuts = {{"ep,tp", shard(0)}, {"fsdp", shard(0)}};
  const Mesh all = mesh("dp=2,fsdp=2,ep=2,tp=2");
  std::vector<int> times(11, 0);
  for (Dim rank = 0; rank < all.world_size(); ++rank)
    for (const Dim index : held_indices(cuts, 11, 0, all, rank)) ++times[static_cast<std::size_t>(index)];
  for (const int count : times) EXPECT_EQ(count, 2);
}

TEST(HeldShape, DividesTheShardedDimensionsOnly) {
  EXPECT_EQ(held_shape(std::vector<Cut>{{"ep", shard(1)}}, {4, 6, 8}, mesh("ep=3"), 2), (base::Shape{4, 2, 8}));
  EXPECT_EQ(held_shape(std::vector<Cut>{{"ep", shard(0)}, {"tp", strided_shard(2, 2)}}, {4, 6, 8}, mesh("ep=2,tp=2"), 0), (base::Shape{2, 6, 4}));
  EXPECT_EQ(held_shape(std::vector<Cut>{{"ep", replicate()}, {"tp", partial()}}, {4, 6}, mesh("ep=2,tp=2"), 0), (base::Shape{4, 6}));
}

TEST(Cuts, ReadAsWhereEachLies) {
  EXPECT_EQ(text(std::vector<Cut>{{"ep", shard(0)}, {"tp", strided_shard(1, 2)}}), "Shard(0) over ep, StridedShard(1,2) over tp");
  EXPECT_EQ(text({}), "Replicate");
}

TEST(PlacementDeathTest, AbortsWherePackedBlocksDoNotDivide) { EXPECT_DEATH(local_indices(strided_shard(0, 2), 14, 0, 3), "size 14 over 3 pieces"); }

}  // namespace
}  // namespace moecheck::model
