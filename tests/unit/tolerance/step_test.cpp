// Bounds of a step hold for numbers that err within theirs, and for every rounding in between.
#include "harness/tolerance/step.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace moecheck::tolerance {
namespace {

using base::DType;

double fp32(double x) { return base::round_to(DType::kF32, x); }

TEST(Stored, IsOneNumberOfANarrowDtypeIfBothLimitsAreRoundedToIt) {
  const Near weight = stored({0.3, 1e-5}, DType::kBF16);
  EXPECT_EQ(weight.value, base::round_to(DType::kBF16, 0.3));
  EXPECT_EQ(weight.bound, 0);
}

TEST(Stored, LiesBetweenWhatItsLimitsAreRoundedTo) {
  const Near weight = stored({0.3, 0.01}, DType::kBF16);
  EXPECT_EQ(weight.value - weight.bound, base::round_to(DType::kBF16, 0.29));
  EXPECT_EQ(weight.value + weight.bound, base::round_to(DType::kBF16, 0.31));
}

TEST(Stored, IsRoundedOnceMoreInFp32) {
  const Near weight = stored({0.3, 1e-9}, DType::kF32);
  EXPECT_EQ(weight.value, 0.3);
  EXPECT_GE(weight.bound, 1e-9 + std::fabs(fp32(0.3) - 0.3));
  EXPECT_LE(weight.bound, 1e-9 + 0x1.01p-24 * 0.3);
}

TEST(RoundedTo, HoldsEveryNumberThatIsRoundedThere) {
  for (const double shown : {0.296875, 0.25, -1.0, 0.0, 1e-30})
    for (const DType dtype : {DType::kBF16, DType::kF32}) {
      const double at = base::round_to(dtype, shown);
      const Near near = rounded_to(at, dtype);
      const double outward = at < 0 ? -near.bound : near.bound;
      EXPECT_EQ(base::round_to(dtype, at + 0.99 * outward), at) << shown;
      EXPECT_NE(base::round_to(dtype, at + 1.01 * outward), at) << shown;
    }
}

TEST(Narrowed, IsWhatTwoStatementsHaveInCommonOrTheSecond) {
  const Near both = narrowed({1, 0.5}, {1.5, 0.25});
  EXPECT_EQ(both.value, 1.375);
  EXPECT_EQ(both.bound, 0.125);
  EXPECT_EQ(narrowed({1, 0.5}, {3, 0.25}).value, 3);
}

// Three steps of adamw with every operation rounded, from gradients that err as far as they may.
class RoundedAdamW : public testing::TestWithParam<DType> {};

TEST_P(RoundedAdamW, StaysWithinTheBoundsOfExactOnes) {
  constexpr double kBeta1 = 0.9, kBeta2 = 0.999, kRate = 0.01, kDecay = 0.1, kEps = 1e-8;
  const DType dtype = GetParam();
  const StepBounds bounds(dtype);
  const auto rounded = [&](double x) { return base::round_to(dtype, x); };
  std::mt19937_64 engine(5);
  std::normal_distribution<double> normal;
  std::uniform_int_distribution<int> any(0, 12);
  for (int trial = 0; trial < 3000; ++trial) {
    double m = 0, v = 0, theta = rounded(0.1 * normal(engine));
    Near near_m, near_v, near_theta{theta, 0};
    for (int t = 1; t <= 3; ++t) {
      const double exact_g = std::pow(10.0, -any(engine)) * normal(engine), error = trial % 3 == 0 ? 0.3 : 1e-6;
      const double g = exact_g * (1 + error * (t % 2 == 0 ? 1 : -1));
      const Near near_g{exact_g, error * std::fabs(exact_g)};
      m = rounded(rounded(kBeta1 * m) + rounded((1 - kBeta1) * g));
      v = rounded(rounded(kBeta2 * v) + rounded((1 - kBeta2) * rounded(g * g)));
      const double c1 = 1 - std::pow(kBeta1, t), c2 = 1 - std::pow(kBeta2, t);
      const double ratio = rounded(rounded(m / c1) / rounded(rounded(std::sqrt(rounded(v / c2))) + kEps));
      theta = rounded(rounded(theta * (1 - kRate * kDecay)) - rounded(kRate * ratio));
      near_m = {kBeta1 * near_m.value + (1 - kBeta1) * exact_g, bounds.first_moment(near_m, near_g, kBeta1)};
      near_v = {kBeta2 * near_v.value + (1 - kBeta2) * exact_g * exact_g, bounds.second_moment(near_v, near_g, kBeta2)};
      const AdamWRates rates{kRate, 1 - kRate * kDecay, c1, c2, kEps, bounds.adamw_ratio_limit(kBeta1, kBeta2, t)};
      const double value = rates.keep * near_theta.value - kRate * near_m.value / c1 / (std::sqrt(near_v.value / c2) + kEps);
      near_theta = bounds.adamw_weight(value, near_theta, near_m, near_v, rates);
      ASSERT_TRUE(within(std::fabs(m - near_m.value), near_m.bound)) << exact_g << " at " << t;
      ASSERT_TRUE(within(std::fabs(v - near_v.value), near_v.bound)) << exact_g << " at " << t;
      ASSERT_TRUE(within(std::fabs(theta - near_theta.value), near_theta.bound)) << exact_g << " at " << t;
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Dtypes, RoundedAdamW, testing::Values(DType::kF32, DType::kBF16),
                         [](const auto& dtype) { return std::string(base::knob_name(dtype.param)); });

TEST(AdamWRatioLimit, IsReachedByTheGradientsThatAreWorstAndByNoOthers) {
  const StepBounds bounds(DType::kF32);
  EXPECT_NEAR(bounds.adamw_ratio_limit(0.9, 0.999, 1), 1, 1e-6);
  const double limit = bounds.adamw_ratio_limit(0.9, 0.999, 20);
  double m = 0, v = 0;   // gradients in proportion to a_i / b_i
  for (int i = 0; i < 20; ++i) {
    const double g = std::pow(0.9 / 0.999, 19 - i);
    m = 0.9 * m + 0.1 * g;
    v = 0.999 * v + 0.001 * g * g;
  }
  const double ratio = m / (1 - std::pow(0.9, 20)) / std::sqrt(v / (1 - std::pow(0.999, 20)));
  EXPECT_NEAR(limit / ratio, 1, 1e-4);
  EXPECT_TRUE(std::isinf(StepBounds(DType::kBF16).adamw_ratio_limit(0.9, 0.999, 1000))) << "more roundings than can be bounded";
}

TEST(StepBounds, OfAClippedGradientAreZeroWhereNothingIsClipped) {
  EXPECT_EQ(StepBounds(DType::kBF16).clipped({0.3, 0}, {1, 0}), 0);
  EXPECT_GT(StepBounds(DType::kBF16).clipped({0.3, 0}, {0.5, 0}), 0);
}

TEST(StepBounds, OfANormAreThoseOfItsPartsAndOfEveryRounding) {
  const StepBounds fp32_state(DType::kF32), bf16_state(DType::kBF16);
  EXPECT_GE(fp32_state.norm(2, 0.1, 1000, 3), 0.1);
  EXPECT_LT(fp32_state.norm(2, 0, 1000, 3), 2 * 600 * 0x1p-24);
  EXPECT_GE(bf16_state.norm(2, 0, 1000, 3), 2 * 3 * 0x1p-8);
  EXPECT_TRUE(std::isfinite(bf16_state.norm(2, 0, 1000, 4000)));
}

}  // namespace
}  // namespace moecheck::tolerance
