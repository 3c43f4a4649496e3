// Optimizer steps that were worked out by hand, and closed forms.
#include "reference/optimizer.h"

#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "tests/unit/reference/hand_fixtures.h"

namespace moecheck::reference {
namespace {

using base::DType;

constexpr double kDoubleRoundoff = 0x1p-53;

Matrix<double> number(double value) { return matrix(1, 1, {value}); }

TEST(Sgd, WithMomentumGivesTheNumbersThatWereWorkedOutByHand) {
  const SgdOptions options{.learning_rate = 0.5, .momentum = 0.5, .weight_decay = 0};
  auto state = sgd_start(matrix(1, 2, {1, -2}));
  state = sgd_step(state, matrix(1, 2, {1, 4}), options);
  EXPECT_EQ(state.momentum, matrix(1, 2, {1, 4}));  // the first one is not dampened
  EXPECT_EQ(state.theta, matrix(1, 2, {0.5, -4}));
  state = sgd_step(state, matrix(1, 2, {1, 0}), options);
  EXPECT_EQ(state.momentum, matrix(1, 2, {1.5, 2}));
  EXPECT_EQ(state.theta, matrix(1, 2, {-0.25, -5}));
  state = sgd_step(state, matrix(1, 2, {1, -8}), options);
  EXPECT_EQ(state.momentum, matrix(1, 2, {1.75, -7}));
  EXPECT_EQ(state.theta, matrix(1, 2, {-1.125, -1.5}));
}

TEST(Sgd, PutsWeightDecayIntoTheMomentum) {
  const SgdOptions options{.learning_rate = 0.5, .momentum = 0.5, .weight_decay = 0.25};
  auto state = sgd_start(number(2));
  state = sgd_step(state, number(1), options);  // g' = 1 + 2/4
  EXPECT_EQ(state.momentum, number(1.5));
  EXPECT_EQ(state.theta, number(1.25));
  state = sgd_step(state, number(1), options);  // g' = 1 + 1.25/4
  EXPECT_EQ(state.momentum, number(2.0625));
  EXPECT_EQ(state.theta, number(0.21875));
  state = sgd_step(state, number(-1), options);  // g' = -1 + 0.21875/4
  EXPECT_EQ(state.momentum, number(0.0859375));
  EXPECT_EQ(state.theta, number(0.17578125));
}

TEST(Sgd, UnderAConstantGradientFollowsTheGeometricSeries) {
  constexpr double kLr = 0.1, kMu = 0.9, kGradient = 3;
  constexpr int kSteps = 20;
  auto state = sgd_start(number(1));
  for (int n = 1; n <= kSteps; ++n) {
    state = sgd_step(state, number(kGradient), {.learning_rate = kLr, .momentum = kMu, .weight_decay = 0});
    const double series = (1 - std::pow(kMu, n)) / (1 - kMu);  // b_n / g
    const double theta = 1 - kLr * kGradient / (1 - kMu) * (n - kMu * series);
    const double rounding = 8 * kSteps * kDoubleRoundoff * (1 + kLr * kGradient / (1 - kMu) * n);
    EXPECT_NEAR(state.momentum(0, 0), kGradient * series, rounding) << n;
    EXPECT_NEAR(state.theta(0, 0), theta, rounding) << n;
  }
}

constexpr AdamWOptions kHandOptions{.learning_rate = 0.25, .beta1 = 0.5, .beta2 = 0.75, .eps = 0.5, .weight_decay = 0.5};

TEST(AdamW, GivesTheNumbersThatWereWorkedOutByHand) {
  auto state = adamw_start(number(1));
  state = adamw_step(state, number(2), kHandOptions);
  EXPECT_EQ(state.step, 1);
  EXPECT_EQ(state.m, number(1));  // m^ = 1 / (1/2) = 2
  EXPECT_EQ(state.v, number(1));  // v^ = 1 / (1/4) = 4
  EXPECT_DOUBLE_EQ(state.theta(0, 0), 0.675);  // 7/8 - 1/4 * 2 / (2 + 1/2)

  state = adamw_step(state, number(0), kHandOptions);
  EXPECT_EQ(state.m, number(0.5));   // m^ = (1/2) / (3/4) = 2/3
  EXPECT_EQ(state.v, number(0.75));  // v^ = (3/4) / (7/16) = 12/7
  const double second = 0.590625 - 1.0 / 6 / (std::sqrt(12.0 / 7) + 0.5);
  EXPECT_DOUBLE_EQ(state.theta(0, 0), second);

  state = adamw_step(state, number(-4), kHandOptions);
  EXPECT_EQ(state.step, 3);
  EXPECT_EQ(state.m, number(-1.75));   // m^ = -7/4 / (7/8) = -2
  EXPECT_EQ(state.v, number(4.5625));  // v^ = (73/16) / (37/64) = 292/37
  EXPECT_DOUBLE_EQ(state.theta(0, 0), 0.875 * second + 0.5 / (std::sqrt(292.0 / 37) + 0.5));
}

TEST(AdamW, FirstStepIsNearlyTheSignOfTheGradient) {
  const auto theta = matrix(2, 3, {1, -2, 3, 0.5, 0, -0.25});
  const auto g = matrix(2, 3, {1e-3, -2e-6, 5, -1e-9, 0, 3e-4});
  const AdamWOptions options{.learning_rate = 1e-3, .weight_decay = 0.1};
  const auto after = adamw_step(adamw_start(theta), g, options);
  for (Dim i = 0; i < g.size(); ++i) {
    const double gradient = g.data()[i];
    const double decayed = theta.data()[i] * (1 - 1e-3 * 0.1);
    EXPECT_NEAR(after.theta.data()[i], decayed - 1e-3 * gradient / (std::fabs(gradient) + 1e-8),
                16 * kDoubleRoundoff * (std::fabs(decayed) + 1e-3));
  }
}

TEST(AdamW, WithoutEpsDoesNotSeeTheScaleOfTheGradient) {
  const AdamWOptions options{.learning_rate = 0.01, .eps = 0, .weight_decay = 0.1};
  for (const double factor : {2.0, 0x1p-10, 0x1p20}) {
    auto plain = adamw_start(matrix(1, 3, {1, -2, 3}));
    auto scaled = plain;
    for (const double step : {1.0, -0.3, 0.7}) {
      const auto g = matrix(1, 3, {step, 1e-3, -5 * step});
      plain = adamw_step(plain, g, options);
      scaled = adamw_step(scaled, Matrix<double>(factor * g), options);
      EXPECT_TRUE(plain.theta == scaled.theta) << factor;
      EXPECT_TRUE(scaled.m == factor * plain.m) << factor;
      EXPECT_TRUE(scaled.v == factor * factor * plain.v) << factor;  // a wrong scale shows in v, squared
    }
  }
}

TEST(AdamW, WithAGradientOfZeroStillDecaysAndMovesWithItsMoments) {
  auto state = adamw_step(adamw_start(number(1)), number(2), kHandOptions);
  const double before = state.theta(0, 0);
  state = adamw_step(state, number(0), kHandOptions);
  EXPECT_LT(state.theta(0, 0), 0.875 * before);
}

TEST(AdamW, StaysWithinAFewRoundingsInFloat) {
  auto narrow = adamw_start<float>(Matrix<float>::Constant(1, 1, 0.75F));
  auto wide = adamw_start(number(0.75));
  constexpr double kFloatRoundoff = 0x1p-24;
  double limit = 0;
  for (int n = 1; n <= 5; ++n) {
    narrow = adamw_step<float>(narrow, Matrix<float>::Constant(1, 1, 0.125F), {.learning_rate = 0.01, .weight_decay = 0.1});
    wide = adamw_step(wide, number(0.125), {.learning_rate = 0.01, .weight_decay = 0.1});
    limit += (2 * 0.75 + 64 * 0.01) * kFloatRoundoff;  // theta rounds twice, the step some dozens of times with its moments
    EXPECT_NEAR(static_cast<double>(narrow.theta(0, 0)), wide.theta(0, 0), limit);
  }
}

// Steps of a quarter of the copy's spacing below 1, which is 2^-8 in bf16; all of it is exact in fp32.
TEST(MasterWeights, AddUpStepsThatTheLowPrecisionCopyWouldLose) {
  const AdamWOptions options{.learning_rate = 0x1p-10, .beta1 = 0.5, .beta2 = 0.75, .eps = 0, .weight_decay = 0};
  const Matrix<float> gradient = Matrix<float>::Constant(1, 1, 1);
  auto master = adamw_start<float>(Matrix<float>::Constant(1, 1, 1));
  Matrix<float> without_master = master.theta;
  // 1 - 2^-9 lies half way: to even, which is 1.
  for (const float copy : {1.0F, 1.0F, 1 - 0x1p-8F, 1 - 0x1p-8F}) {
    master = adamw_step(master, gradient, options);
    EXPECT_EQ(low_precision_copy(master.theta, DType::kBF16)(0, 0), copy) << "step " << master.step;
    EXPECT_EQ(master.theta(0, 0), 1 - static_cast<float>(master.step) * 0x1p-10F);
    const auto alone = adamw_step(adamw_start<float>(without_master), gradient, options);
    without_master = low_precision_copy(alone.theta, DType::kBF16);
  }
  EXPECT_EQ(without_master(0, 0), 1.0F);
}

TEST(MasterWeights, AreRoundedToTheCopyBitForBit) {
  Matrix<float> master(1, 8);
  master << 1 + 0x1p-8F, 1 + 3 * 0x1p-8F, 1 + 0x1p-8F + 0x1p-20F, -1 - 0x1p-8F, 0.1F, -3.14159F, 1e-40F, 3.4e38F;
  const Matrix<float> bf16 = low_precision_copy(master, DType::kBF16);
  EXPECT_EQ(bf16(0, 0), 1.0F);                // tie, to even: down
  EXPECT_EQ(bf16(0, 1), 1 + 0x1p-6F);         // tie, to even: up
  EXPECT_EQ(bf16(0, 2), 1 + 0x1p-7F);         // above the tie
  EXPECT_EQ(bf16(0, 3), -1.0F);
  const Matrix<float> f16 = low_precision_copy(master, DType::kF16);
  for (Dim i = 0; i < master.size(); ++i) {
    EXPECT_EQ(bf16(0, i), base::float_from_bf16(base::bf16_from_float(master(0, i)))) << i;
    EXPECT_EQ(f16(0, i), base::float_from_f16(base::f16_from_float(master(0, i)))) << i;
  }
  EXPECT_EQ(low_precision_copy(master, DType::kF32), master);
}

TEST(Clipping, TakesTheNormOverAllParameters) {
  GlobalNorm norm;
  EXPECT_EQ(norm.value(), 0);
  norm.add(matrix(1, 2, {2, 4}));
  norm.add<float>(Matrix<float>::Constant(2, 2, 2));
  norm.add(Matrix<double>::Zero(3, 3).eval());
  EXPECT_EQ(norm.value(), 6);
}

TEST(Clipping, ScalesDownToTheLimitAndNeverUp) {
  EXPECT_EQ(clip_coefficient(6, 1.5), 1.5 / (6 + 1e-6));
  EXPECT_EQ(clip_coefficient(0.5, 1), 1);
  EXPECT_EQ(clip_coefficient(0, 1), 1);
  EXPECT_LT(clip_coefficient(1, 1), 1);  // the guard: a norm at the limit is clipped a little
  EXPECT_EQ(clip_coefficient(std::numeric_limits<double>::infinity(), 1), 0);
  EXPECT_TRUE(std::isnan(clip_coefficient(std::nan(""), 1)));
}

TEST(GradientSum, AddsMicrobatchesAndDividesByWhatWasDeclared) {
  GradientSum<double> sum(1, 2);
  EXPECT_EQ(sum.sum(), matrix(1, 2, {0, 0}));
  sum.add(matrix(1, 2, {1, 2}));
  sum.add(matrix(1, 2, {3, -6}));
  sum.add(matrix(1, 2, {4, 0}));
  EXPECT_EQ(sum.sum(), matrix(1, 2, {8, -4}));
  EXPECT_EQ(sum.mean(4), matrix(1, 2, {2, -1}));
}

}  // namespace
}  // namespace moecheck::reference
