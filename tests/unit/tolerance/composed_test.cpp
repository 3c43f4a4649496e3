// Bounds of inputs that err hold for every input within them.
#include "harness/tolerance/composed.h"

#include <gtest/gtest.h>

namespace moecheck::tolerance {
namespace {

double silu(double x) { return x / (1 + std::exp(-x)); }
double slope(double x) {
  const double s = 1 / (1 + std::exp(-x));
  return s * (1 + x * (1 - s));
}

TEST(Composed, IsTheStagesOwnBoundWhereTheInputsAreExact) {
  const StageBound stage(Stage::kMatmul, base::DType::kBF16, 48, 0);
  EXPECT_EQ(composed(stage, -3, 0, 10, 0), stage.of(3, 10, 0));
}

TEST(Composed, AddsWhatTheInputsMoveAndRoundsTheLargestResult) {
  const StageBound stage(Stage::kMatmul, base::DType::kBF16, 48, 0);
  EXPECT_GE(composed(stage, 3, 0.5, 10, 0), 0.5 + 0x1p-8 * 3.5);
  EXPECT_LT(composed(stage, 3, 0.5, 10, 0), 0.5 + 0x1p-8 * 3.6);
}

TEST(Composed, HoldsForSiluAndItsSlopeAtEveryInputWithinTheBound) {
  for (double x = -12; x <= 12; x += 0.37)
    for (const double bound : {0.0, 1e-6, 0.01, 0.3, 2.0})
      for (int step = -8; step <= 8; ++step) {
        const double moved = x + bound * step / 8;
        EXPECT_LE(std::fabs(silu(moved) - silu(x)), swish_error({x, bound}, {}) + 1e-15) << x << " +- " << bound;
        EXPECT_LE(std::fabs(slope(moved) - slope(x)), swish_slope_error({x, bound}, {}) + 1e-15) << x << " +- " << bound;
      }
}

TEST(Composed, IsCloseToTheSlopeForASmallErrorOfSilu) { EXPECT_NEAR(swish_error({1.5, 1e-4}, {}) / (slope(1.5) * 1e-4), 1, 1e-3); }

TEST(Composed, HoldsForAClampedSwishAndItsSlopeAtEveryInputWithinTheBound) {
  const model::Activation activation{1.702, 1.5, 1};
  const auto swish = [](double x) { return silu(1.702 * std::min(x, 1.5)) / 1.702; };
  const auto swish_slope = [](double x) { return x > 1.5 ? 0 : slope(1.702 * x); };
  const auto clamp_slope = [](double x) { return std::fabs(x) > 1.5 ? 0.0 : 1.0; };
  for (double x = -4; x <= 4; x += 0.13)
    for (const double bound : {0.0, 1e-6, 0.01, 0.3, 2.0})
      for (int step = -8; step <= 8; ++step) {
        const double moved = x + bound * step / 8;
        EXPECT_LE(std::fabs(swish(moved) - swish(x)), swish_error({x, bound}, activation) + 1e-15) << x << " +- " << bound;
        EXPECT_LE(std::fabs(swish_slope(moved) - swish_slope(x)), swish_slope_error({x, bound}, activation) + 1e-15) << x << " +- " << bound;
        EXPECT_LE(std::fabs(clamp_slope(moved) - clamp_slope(x)), clamp_slope_error({x, bound}, 1.5)) << x << " +- " << bound;
      }
  EXPECT_EQ(swish_error({3, 1}, activation), 0);
  EXPECT_EQ(swish_slope_error({3, 1}, activation), 0);
  EXPECT_EQ(clamp_slope_error({1, 0.4}, 1.5), 0);
}

TEST(Composed, HoldsForASigmoidItsSlopeAndItsShareAtEveryInputWithinTheBound) {
  const auto sigmoid = [](double x) { return 1 / (1 + std::exp(-x)); };
  const auto sigmoid_slope = [&](double x) { return sigmoid(x) * sigmoid(-x); };
  for (double x = -12; x <= 12; x += 0.37)
    for (const double bound : {0.0, 1e-6, 0.01, 0.3, 2.0})
      for (int step = -8; step <= 8; ++step) {
        const double moved = x + bound * step / 8;
        EXPECT_LE(std::fabs(sigmoid(moved) - sigmoid(x)), sigmoid_error({x, bound}) + 1e-15) << x << " +- " << bound;
        EXPECT_LE(std::fabs(sigmoid_slope(moved) - sigmoid_slope(x)), sigmoid_slope_error({x, bound}) + 1e-15) << x << " +- " << bound;
        const Near a{sigmoid(x), sigmoid_error({x, bound})}, b{0.4, 0.1};
        const double share_of_moved = sigmoid(moved) / (sigmoid(moved) + 0.4 - 0.1 * step / 8);
        EXPECT_LE(std::fabs(share_of_moved - share(a, b).value), share(a, b).bound + 1e-15) << x << " +- " << bound;
      }
  EXPECT_NEAR(sigmoid_error({0.5, 1e-4}) / (sigmoid_slope(0.5) * 1e-4), 1, 1e-3);
}

TEST(Composed, HoldsForASoftmaxWhoseLogitsErrAgainstEachOther) {
  const double logits[3] = {0.4, -1.0, 2.0}, errs[3] = {0.05, -0.2, -0.1};
  double sum = 0, moved_sum = 0;
  for (int i = 0; i < 3; ++i) {
    sum += std::exp(logits[i]);
    moved_sum += std::exp(logits[i] + errs[i]);
  }
  for (int i = 0; i < 3; ++i) {
    const double p = std::exp(logits[i]) / sum, moved = std::exp(logits[i] + errs[i]) / moved_sum;
    EXPECT_LE(std::fabs(moved - p), softmax_error(p, std::fabs(errs[i]), 0.2));
  }
}

TEST(Composed, CountsNoMoreRoundingsThanABoundExistsFor) {
  EXPECT_EQ(countable_roundings(17, base::DType::kBF16), 17);
  EXPECT_EQ(countable_roundings(4000, base::DType::kBF16), 255);
  EXPECT_TRUE(std::isfinite(StageBound(Stage::kGradient, base::DType::kBF16, 4000, countable_roundings(4000, base::DType::kBF16)).of(1, 1, 1)));
}

TEST(Composed, AllowsACopyOneRoundingToTheDtype) {
  const Near copy = recorded_copy(-0.3, base::DType::kBF16);
  EXPECT_LE(std::fabs(base::round_to(base::DType::kBF16, -0.3) + 0.3), copy.bound);
  EXPECT_EQ(copy.value, -0.3);
}

}  // namespace
}  // namespace moecheck::tolerance
