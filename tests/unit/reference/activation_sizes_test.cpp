// The clamped activation, rounded after every operation as a tensor library composes it, stays within the bounds of its stages; what leaves a
// part of it out does not.
#include "reference/activation_sizes.h"

#include <cmath>

#include <gtest/gtest.h>

#include "reference/backward.h"
#include "reference/grad_stages.h"

namespace moecheck::reference {
namespace {

using base::DType;
using model::Activation;
using tolerance::Stage;

const Activation kClamped{1.702, 1.5, 1};

class Composition {
 public:
  explicit Composition(DType dtype) : dtype_(dtype) {}

  double stored(double value) const { return base::round_to(dtype_, static_cast<double>(static_cast<float>(value))); }

  // act, and d act / d gate and / d up for d act = grad.
  struct Result {
    double act, d_gate, d_up;
  };
  Result operator()(double gate, double up, double grad, const Activation& of = kClamped) const {
    const double c = std::min(gate, of.limit), clamped_up = std::clamp(up, -of.limit, of.limit);
    const double z = stored(c * of.alpha), s = stored(1 / (1 + std::exp(-z))), glu = stored(c * s);
    const double shifted = stored(clamped_up + of.up_shift);
    const double d_glu = stored(grad * shifted), d_s = stored(d_glu * c), d_c = stored(d_glu * s);
    const double d_z = stored(d_s * stored((1 - s) * s)), d_gate = stored(d_c + stored(d_z * of.alpha));
    return {stored(shifted * glu), gate > of.limit ? 0 : d_gate, std::fabs(up) > of.limit ? 0 : stored(grad * glu)};
  }

 private:
  DType dtype_;
};

struct Used {
  double act = 0, d_gate = 0, d_up = 0;
};

// Largest part of the bounds over a grid of gates and ups, with what `subject` computes.
Used most_used(DType dtype, const Activation& subject) {
  const Composition composition(dtype);
  const auto stores = activation_stores(kClamped);
  Used most;
  for (double g = -9; g <= 9; g += 0.23) {
    for (double u = -3; u <= 3; u += 0.31) {
      const double gate = composition.stored(g), up = composition.stored(u), grad = composition.stored(0.7);
      const auto got = composition(gate, up, grad, subject);
      Matrix<double> gate_up_RG(1, 2), d_act_RF(1, 1);
      gate_up_RG << gate, up;
      d_act_RF << grad;
      const double want = swiglu(gate_up_RG, kClamped)(0, 0);
      const Matrix<double> want_RG = swiglu_backward(gate_up_RG, d_act_RF, kClamped);
      const ActivationSizes sizes = activation_sizes(gate, up, kClamped);
      const auto used = [&](Stage stage, double value, double expected, double size, std::int64_t terms, std::int64_t roundings) {
        return tolerance::used(std::fabs(value - expected), tolerance::stage_bound({stage, dtype, expected, size, terms, size, roundings}));
      };
      most.act = std::max(most.act, used(Stage::kActivation, got.act, want, sizes.act, 1, stores.forward));
      most.d_gate = std::max(most.d_gate, used(Stage::kGradient, got.d_gate, want_RG(0, 0), grad * sizes.by_gate, kSwishTerms, stores.backward));
      most.d_up = std::max(most.d_up, used(Stage::kGradient, got.d_up, want_RG(0, 1), grad * sizes.by_up, kSwishTerms, stores.backward));
    }
  }
  return most;
}

class Dtypes : public testing::TestWithParam<DType> {};

TEST_P(Dtypes, AnHonestCompositionStaysWithinTheBounds) {
  const Used honest = most_used(GetParam(), kClamped);
  EXPECT_LE(honest.act, 1);
  EXPECT_LE(honest.d_gate, 1);
  EXPECT_LE(honest.d_up, 1);
  // Bounds that nothing comes near would see nothing.
  EXPECT_GT(honest.act, 0.1);
  EXPECT_GT(honest.d_gate, 0.05);
  EXPECT_GT(honest.d_up, 0.05);
}

TEST_P(Dtypes, WhatLeavesAPartOutIsBeyondThem) {
  for (const Activation& wrong : {Activation{1.702, 7, 1}, Activation{1.702, 1.5, 0}, Activation{1, 1.5, 1}}) {
    const Used used = most_used(GetParam(), wrong);
    EXPECT_GT(used.act, 10) << wrong.alpha << " " << wrong.limit << " " << wrong.up_shift;
    EXPECT_GT(used.d_gate, 4) << wrong.alpha << " " << wrong.limit << " " << wrong.up_shift;
  }
}

INSTANTIATE_TEST_SUITE_P(ActivationSizes, Dtypes, testing::Values(DType::kF32, DType::kBF16),
                         [](const auto& of) { return std::string(base::knob_name(of.param)); });

TEST(ActivationSizes, OfSiluAreThoseOfOneOperation) {
  const ActivationSizes sizes = activation_sizes(2, -3, {});
  EXPECT_DOUBLE_EQ(sizes.act, 3 * swish(2.0));
  EXPECT_DOUBLE_EQ(sizes.by_up, swish(2.0));
  EXPECT_EQ(activation_stores({}).forward, 0);
  EXPECT_EQ(activation_stores({}).backward, 2);
}

// Within bounds they are the largest that any numbers there have.
TEST(ActivationSizes, GrowWithTheBoundsOfGateAndUp) {
  for (const Activation& activation : {Activation{}, kClamped})
    for (double gate = -4; gate <= 4; gate += 0.37)
      for (double up = -3; up <= 3; up += 0.41)
        for (const double bound : {0.01, 0.3}) {
          const ActivationSizes most = activation_sizes({gate, bound}, {up, bound}, activation);
          for (const double step : {-1.0, -0.5, 0.5, 1.0}) {
            const ActivationSizes one = activation_sizes(gate + step * bound, up - step * bound, activation);
            EXPECT_LE(one.act, most.act + 1e-12) << gate << " " << up;
            EXPECT_LE(one.by_gate, most.by_gate + 1e-12) << gate << " " << up;
            EXPECT_LE(one.by_up, most.by_up + 1e-12) << gate << " " << up;
          }
        }
}

}  // namespace
}  // namespace moecheck::reference
