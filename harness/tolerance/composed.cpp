#include "harness/tolerance/composed.h"

#include <algorithm>

namespace moecheck::tolerance {
namespace {

// |silu'| <= 1.0999 (at x = 2.4), |silu''| <= 1/2 (at 0), rounded up.
constexpr double kLargestSiluSlope = 1.1;
constexpr double kLargestSiluCurvature = 0.5;

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double sigmoid_slope(double x) { return sigmoid(x) * sigmoid(-x); }
double silu_slope(double x) { return sigmoid(x) * (1 + x * sigmoid(-x)); }

// Taylor with the remainder's worst case, or the mean value theorem where the bound is wide.
double silu_error(const Near& x) {
  const double by_slope = std::fabs(silu_slope(x.value)) * x.bound + kLargestSiluCurvature / 2 * x.bound * x.bound;
  return std::min(by_slope, kLargestSiluSlope * x.bound);
}

// The value that is farther from `value`.
double farther(double value, double low, double high) { return std::max(value - low, high - value); }

}  // namespace

double composed(const StageBound& stage, double value, double propagated, double magnitude, double stored) {
  return propagated + stage.of(std::fabs(value) + propagated, magnitude, stored);
}

std::int64_t countable_roundings(std::int64_t roundings, base::DType store) {
  const double most = 1 / base::unit_roundoff(store) - 1;
  return static_cast<double>(roundings) < most ? roundings : static_cast<std::int64_t>(most);
}

Near recorded_copy(double value, base::DType store) { return {value, base::unit_roundoff(store) * std::fabs(value)}; }

// swish_alpha(c) = silu(alpha c) / alpha.
double swish_error(const Near& gate, const model::Activation& activation) {
  const auto clamped = [&](double x) { return std::min(x, activation.limit); };
  const double c = clamped(gate.value);
  const double moved = farther(c, clamped(gate.value - gate.bound), clamped(gate.value + gate.bound));
  return silu_error({activation.alpha * c, activation.alpha * moved}) / activation.alpha;
}

double swish_slope_error(const Near& gate, const model::Activation& activation) {
  const double limit = activation.limit, alpha = activation.alpha, low = gate.value - gate.bound;
  if (low > limit) return 0;
  if (gate.value > limit) return std::fabs(silu_slope(alpha * limit)) + kLargestSiluCurvature * alpha * (limit - low);
  const double within = kLargestSiluCurvature * alpha * gate.bound;
  return gate.value + gate.bound <= limit ? within : std::max(within, std::fabs(silu_slope(alpha * gate.value)));
}

double clamp_slope_error(const Near& x, double limit) {
  const double distance = std::fabs(std::fabs(x.value) - limit);
  return x.bound > 0 && x.bound >= distance ? 1 : 0;
}

double sigmoid_error(const Near& x) { return farther(sigmoid(x.value), sigmoid(x.value - x.bound), sigmoid(x.value + x.bound)); }

// Even, and falling with |x|.
double sigmoid_slope_error(const Near& x) {
  const double nearest = std::max(0.0, std::fabs(x.value) - x.bound), farthest = x.largest();
  return farther(sigmoid_slope(x.value), sigmoid_slope(farthest), sigmoid_slope(nearest));
}

// Rises with a, and falls with b.
Near share(const Near& a, const Near& b) {
  const auto of = [](double own, double others) { return own + others > 0 ? own / (own + others) : 0; };
  const auto least = [](const Near& x) { return std::max(0.0, x.value - x.bound); };
  const double value = of(a.value, b.value);
  return {value, farther(value, of(least(a), b.largest()), of(a.largest(), least(b)))};
}

// p_i exp(d_i) / sum_j p_j exp(d_j) with |d_i| <= own and |d_j| <= largest.
double softmax_error(double p, double own, double largest) { return p * std::expm1(own + largest); }

}  // namespace moecheck::tolerance
