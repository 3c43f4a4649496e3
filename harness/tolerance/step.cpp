#include "harness/tolerance/step.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace moecheck::tolerance {
namespace {

constexpr double kFp32 = 0x1p-24;   // unit roundoff

constexpr double kClipRoundings = 8;      // norm + guard (2), division, perhaps as a reciprocal and a product (3), the limit (1), two spare
constexpr double kMomentRoundings = 5;    // g^2 (1), 1 - b and the product with it (2), b times the moment (1), sum (1)
constexpr double kMomentumRoundings = 6;  // decay and its product (2), sum with the gradient (1), mu and its product (2), sum (1)
constexpr double kUpdateRoundings = 11;   // both corrections (4), root, eps and sum (3), division, rate and product (3), one spare
constexpr double kSgdUpdateRoundings = 3; // rate, product, one spare
constexpr double kKeepRoundings = 3;      // of 1 - rate decay: formed in fp32 at worst
constexpr std::int64_t kStoredNormRoundings = 4;   // root of a part, its square, the whole's root, one spare

double largest_rounding(double u, double roundings) { return roundings * u / (1 - roundings * u); }

Near between(double low, double high) { return {(low + high) / 2, (high - low) / 2}; }

// A number that lay between low and high when it was stored. In fp32 that is one more rounding, like any other; in a narrow dtype the
// numbers between are few, and often one.
Near stored_between(double low, double high, double value, base::DType dtype) {
  if (base::unit_roundoff(dtype) > kFp32) return between(base::round_to(dtype, low), base::round_to(dtype, high));
  const double bound = std::max({0.0, value - low, high - value});
  return {value, bound + base::unit_roundoff(dtype) * (std::fabs(value) + bound) + base::underflow_unit(dtype)};
}

// Limits of m^ / (sqrt(v^) + eps).
struct Ratio {
  double low = 0;
  double high = 0;
};

Ratio ratio_limits(const Near& m, const Near& v, const AdamWRates& rates) {
  const double smallest = std::sqrt(std::max(0.0, v.value - v.bound) / rates.correction_v) + rates.eps;
  const double largest = std::sqrt((v.value + v.bound) / rates.correction_v) + rates.eps;
  const double low = (m.value - m.bound) / rates.correction_m, high = (m.value + m.bound) / rates.correction_m;
  Ratio ratio{low / (low < 0 ? smallest : largest), high / (high > 0 ? smallest : largest)};
  // Recorded moments, which have no bound, are taken as they are.
  if (m.bound == 0 && v.bound == 0) return ratio;
  ratio.low = std::clamp(ratio.low, -rates.ratio_limit, rates.ratio_limit);
  ratio.high = std::clamp(ratio.high, -rates.ratio_limit, rates.ratio_limit);
  return ratio;
}

}  // namespace

Near stored(const Near& near, base::DType dtype) {
  return stored_between(near.value - near.bound, near.value + near.bound, near.value, dtype);
}

Near rounded_to(double shown, base::DType dtype) {
  if (!std::isfinite(shown)) return {shown, 0};
  const double binade = shown == 0 ? 0 : std::ldexp(1.0, std::ilogb(shown));
  return {shown, base::unit_roundoff(dtype) * binade + base::underflow_unit(dtype)};
}

Near narrowed(const Near& first, const Near& second) {
  const double low = std::max(first.value - first.bound, second.value - second.bound);
  const double high = std::min(first.value + first.bound, second.value + second.bound);
  return low <= high ? between(low, high) : second;
}

double StepBounds::sum(double magnitude, std::int64_t additions) const {
  return gamma(countable_roundings(additions, state_), u_) * magnitude + static_cast<double>(additions) * underflow_;
}

double StepBounds::norm(double value, double propagated, std::int64_t squares, std::int64_t parts) const {
  const double largest = value + propagated;
  const double accumulated = StageBound(Stage::kNorm, base::DType::kF32, squares, 0).of(largest, largest, 0);
  const std::int64_t roundings = countable_roundings((parts + 1) / 2 + kStoredNormRoundings, state_);
  return propagated + accumulated + gamma(roundings, u_) * (largest + accumulated) +
         std::sqrt(static_cast<double>(squares) * underflow_);
}

double StepBounds::clip_slack() const { return largest_rounding(u_, kClipRoundings); }

double StepBounds::clipped(const Near& gradient, const Near& clip) const {
  const double moved = clip.bound * gradient.largest() + std::fabs(clip.value) * gradient.bound;
  // A factor of 1 rounds nothing, and may be left out.
  const bool is_one = clip.bound == 0 && clip.value == 1;
  return is_one ? moved : moved + u_ * clip.largest() * gradient.largest() + underflow_;
}

double StepBounds::first_moment(const Near& m, const Near& gradient, double keep) const {
  const double moved = keep * m.bound + (1 - keep) * gradient.bound;
  const double largest = keep * m.largest() + (1 - keep) * gradient.largest();
  return moved + largest_rounding(u_, kMomentRoundings) * largest + kMomentRoundings * underflow_;
}

double StepBounds::second_moment(const Near& v, const Near& gradient, double keep) const {
  const double moved = keep * v.bound + (1 - keep) * (gradient.largest() + std::fabs(gradient.value)) * gradient.bound;
  const double largest = keep * v.largest() + (1 - keep) * gradient.largest() * gradient.largest();
  return moved + largest_rounding(u_, kMomentRoundings) * largest + kMomentRoundings * underflow_;
}

// (sum a_i g_i)^2 <= (sum a_i^2 / b_i) (sum b_i g_i^2), where a_i and b_i are the weights of step i in m^ and v^.
double StepBounds::adamw_ratio_limit(double beta1, double beta2, std::int64_t steps) const {
  const double roundings = kMomentRoundings * static_cast<double>(steps) * u_;
  if (2 * roundings >= 1) return std::numeric_limits<double>::infinity();
  double sum = 0;
  for (std::int64_t back = 0; back < steps; ++back) {
    const double a = (1 - beta1) * std::pow(beta1, static_cast<double>(back)) / (1 - std::pow(beta1, static_cast<double>(steps)));
    const double b = (1 - beta2) * std::pow(beta2, static_cast<double>(back)) / (1 - std::pow(beta2, static_cast<double>(steps)));
    sum += a * a / b;
  }
  return std::sqrt(sum) / (1 - 2 * roundings);
}

Near StepBounds::adamw_weight(double value, const Near& theta, const Near& m, const Near& v, const AdamWRates& rates) const {
  const Ratio ratio = ratio_limits(m, v, rates);
  const double center = m.value / rates.correction_m / (std::sqrt(v.value / rates.correction_v) + rates.eps);
  const double longest = std::max(std::fabs(ratio.low), std::fabs(ratio.high));
  // A decay that is added to the ratio is rounded with it.
  const double beside = (1 - rates.keep) * theta.largest();
  const double rounded = largest_rounding(u_, kUpdateRoundings) * (rates.learning_rate * longest + beside) + underflow_;
  // The decayed weight is stored before the step is taken, or is not.
  const double decayed = rates.keep * theta.value;
  const double slack = rates.keep * theta.bound + (rates.keep == 1 ? 0 : kKeepRoundings * kFp32 * theta.largest());
  double low = decayed - slack, high = decayed + slack;
  if (rates.keep != 1) {
    low = std::min(low, base::round_to(state_, low));
    high = std::max(high, base::round_to(state_, high));
  }
  const double below = std::max(0.0, ratio.high - center), above = std::max(0.0, center - ratio.low);
  return stored_between(value - (decayed - low) - rates.learning_rate * below - rounded,
                        value + (high - decayed) + rates.learning_rate * above + rounded, value, state_);
}

double StepBounds::momentum(const Near& buffer, const Near& gradient, const Near& theta, double mu, double decay) const {
  const double moved = mu * buffer.bound + gradient.bound + decay * theta.bound;
  const double largest = mu * buffer.largest() + gradient.largest() + decay * theta.largest();
  return moved + largest_rounding(u_, kMomentumRoundings) * largest + kMomentumRoundings * underflow_;
}

Near StepBounds::sgd_weight(double value, const Near& theta, const Near& buffer, double learning_rate) const {
  const double rounded = largest_rounding(u_, kSgdUpdateRoundings) * buffer.largest();
  return stored({value, theta.bound + learning_rate * (buffer.bound + rounded) + underflow_}, state_);
}

}  // namespace moecheck::tolerance
