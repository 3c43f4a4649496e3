#include "reference/activation_sizes.h"

#include <algorithm>
#include <cmath>

#include "reference/experts.h"
#include "reference/router.h"

namespace moecheck::reference {
namespace {

using tolerance::Near;

// Upper bounds of slopes: of z s(-z), of s(z), and of s(z) (1 + |z|).
constexpr double kSensitivitySlope = 1.1;
constexpr double kSigmoidSlope = 0.25;
constexpr double kSpreadSlope = 1.6;

// Of silu' the terms err on their own, though they may cancel.
ActivationSizes silu_sizes(const Near& gate, const Near& up) {
  const double s = sigmoid(gate.value), swish_most = std::fabs(swish(gate.value)) + tolerance::swish_error(gate, {});
  const double by_gate = s * (1 + std::fabs(gate.value) * (1 - s)) + tolerance::swish_slope_error(gate, {});
  return {swish_most * up.largest(), up.largest() * by_gate, swish_most};
}

ActivationSizes composed_sizes(const Near& gate, const Near& up, const model::Activation& activation) {
  const double c = std::min(gate.value, activation.limit), z = activation.alpha * c, moved = activation.alpha * gate.bound;
  const double sensitivity = 1 + std::fabs(z) * sigmoid(-z) + kSensitivitySlope * moved;
  const double swish_most = (std::fabs(c) + gate.bound) * std::min(1.0, sigmoid(z) + kSigmoidSlope * moved);
  const double up_most = std::min(up.largest(), activation.limit) + activation.up_shift;
  const double spread = sigmoid(z) * (1 + std::fabs(z)) + kSpreadSlope * moved;
  const bool is_gate_clamped = gate.value - gate.bound > activation.limit;
  const bool is_up_clamped = std::fabs(up.value) - up.bound > activation.limit;
  return {swish_most * up_most * sensitivity, is_gate_clamped ? 0 : up_most * spread * sensitivity,
          is_up_clamped ? 0 : swish_most * sensitivity};
}

}  // namespace

ActivationStores activation_stores(const model::Activation& activation) {
  if (activation.is_silu()) return {0, 2};   // backward: silu(gate), and d act * up
  return {3, 8};
}

ActivationSizes activation_sizes(double gate, double up, const model::Activation& activation) {
  return activation_sizes(Near{gate, 0}, Near{up, 0}, activation);
}

ActivationSizes activation_sizes(const Near& gate, const Near& up, const model::Activation& activation) {
  return activation.is_silu() ? silu_sizes(gate, up) : composed_sizes(gate, up, activation);
}

}  // namespace moecheck::reference
