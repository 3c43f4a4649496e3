#include <gtest/gtest.h>

#include <limits>

#include "harness/tolerance/envelope.h"

namespace moecheck::tolerance {
namespace {

TEST(Envelope, TellsWithinFromBeyondAndLeavesTheRestOpen) {
  EXPECT_EQ(judge_envelope({1, 1, 2}), EnvelopeVerdict::kWithin);
  EXPECT_EQ(judge_envelope({1.001, 1, 2}), EnvelopeVerdict::kUncertain);
  EXPECT_EQ(judge_envelope({kEnvelopeFactor, 1, 2}), EnvelopeVerdict::kUncertain);
  EXPECT_EQ(judge_envelope({kEnvelopeFactor + 0.001, 1, 2}), EnvelopeVerdict::kBeyond);
}

TEST(Envelope, IsWiderWhereItRestsOnManyElements) {
  EXPECT_EQ(judge_envelope({kUsualFactor, 1, 2, kManyElements - 1}), EnvelopeVerdict::kUncertain);
  EXPECT_EQ(judge_envelope({kUsualFactor, 1, 2, kManyElements}), EnvelopeVerdict::kWithin);
  EXPECT_EQ(judge_envelope({kUsualFactor + 0.001, 1, 2, kManyElements}), EnvelopeVerdict::kUncertain);
  EXPECT_EQ(judge_envelope({kEnvelopeFactor + 0.001, 1, 2, kManyElements}), EnvelopeVerdict::kBeyond);
}

TEST(Envelope, AllowsNothingWhereTheControlsAreTheSame) {
  EXPECT_EQ(judge_envelope({0, 0, 3}), EnvelopeVerdict::kWithin);
  EXPECT_EQ(judge_envelope({1e-30, 0, 3}), EnvelopeVerdict::kBeyond);
}

TEST(Envelope, KnowsHowFarAFewNeighboursAreApart) { EXPECT_EQ(rounding_distance(0x1p-8, 3), 2 * 0x1p-7 * 3); }

TEST(Envelope, NaNIsBeyond) { EXPECT_EQ(judge_envelope({std::numeric_limits<double>::quiet_NaN(), 1, 2}), EnvelopeVerdict::kBeyond); }

TEST(Envelope, FewerThanTwoControlsTellNothing) { EXPECT_EQ(judge_envelope({0, 1, 1}), EnvelopeVerdict::kUncertain); }

TEST(Envelope, StatesTheLevelOfItsRankTest) { EXPECT_EQ(rank_test_level(4), 0.2); }

}  // namespace
}  // namespace moecheck::tolerance
