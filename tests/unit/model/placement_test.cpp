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

TEST(Placement, LocalShapeDividesTheShardedDimensionOnly) {
  EXPECT_EQ(local_shape(shard(1), {4, 6, 8}, 3), (base::Shape{4, 2, 8}));
  EXPECT_EQ(local_shape(strided_shard(2, 2), {4, 6, 8}, 2), (base::Shape{4, 6, 4}));
  EXPECT_EQ(local_shape(replicate(), {4, 6}, 2), (base::Shape{4, 6}));
  EXPECT_EQ(local_shape(partial(), {4, 6}, 2), (base::Shape{4, 6}));
}

TEST(PlacementDeathTest, AbortsWhereThePiecesDoNotFit) { EXPECT_DEATH(local_indices(shard(0), 7, 0, 2), "size 7 over 2 pieces"); }

}  // namespace
}  // namespace moecheck::model
