#include "harness/tolerance/composed.h"

#include <algorithm>

namespace moecheck::tolerance {
namespace {

// |silu'| <= 1.0999 (at x = 2.4), |silu''| <= 1/2 (at 0), rounded up.
constexpr double kLargestSiluSlope = 1.1;
constexpr double kLargestSiluCurvature = 0.5;

double silu_slope(double x) {
  const double sigmoid = 1 / (1 + std::exp(-x));
  return sigmoid * (1 + x * (1 - sigmoid));
}

}  // namespace

double composed(const StageBound& stage, double value, double propagated, double magnitude, double stored) {
  return propagated + stage.of(std::fabs(value) + propagated, magnitude, stored);
}

std::int64_t countable_roundings(std::int64_t roundings, base::DType store) {
  const double most = 1 / base::unit_roundoff(store) - 1;
  return static_cast<double>(roundings) < most ? roundings : static_cast<std::int64_t>(most);
}

Near recorded_copy(double value, base::DType store) { return {value, base::unit_roundoff(store) * std::fabs(value)}; }

// Taylor with the remainder's worst case, or the mean value theorem where the bound is wide.
double silu_error(const Near& x) {
  const double by_slope = std::fabs(silu_slope(x.value)) * x.bound + kLargestSiluCurvature / 2 * x.bound * x.bound;
  return std::min(by_slope, kLargestSiluSlope * x.bound);
}

double silu_slope_error(const Near& x) { return kLargestSiluCurvature * x.bound; }

// p_i exp(d_i) / sum_j p_j exp(d_j) with |d_i| <= own and |d_j| <= largest.
double softmax_error(double p, double own, double largest) { return p * std::expm1(own + largest); }

}  // namespace moecheck::tolerance
