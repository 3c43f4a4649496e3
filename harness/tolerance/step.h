// Hard bounds of an optimizer's step whose state is not shown: what errs in a part of the step errs on through those that follow, and
// through the steps after it.
//
// Arithmetic:  the state (sums of gradients, moments, weights that take the step) is kept in one dtype: fp32 where fp32 masters are kept,
//              the case's where the parameters themselves are stepped. Each operation of the formulas rounds to it at most once; no sum
//              of second order is dropped. Constants are formed in double.
// Source:      running error analysis, Higham, Accuracy and Stability of Numerical Algorithms, section 3.3; limits of a rounded number by
//              the monotony of rounding.
// A weight of a narrow dtype is stored once, and so is known to lie between two numbers of it, often the same one; at either end
// it uses all of its bound. How far honest steps 1 to 3 stay below the others (tests/unit/reference/own_step.h, 2,400 weights of
// 0.2, rate 0.016, two microbatches, and torch 2.11's own optimizers on 167,000): in fp32 at most 0.25 for adamw's weights, 0.44
// for its moments, 0.99 for sgd, whose last rounding is most of the bound. A doubled rate uses 6,800 to 16,000 in the former, a
// forgotten decay 1,000 to 16,000. With clipping the bounds grow with the norm's, to 0.5 % of an update at 167,000 weights. In
// bf16 with masters that are not shown 94 % of the weights and more can be one number only; stepped in bf16 itself 3 to 6 % for
// adamw, with a median bound of 0.17 to 0.37 of the update, and 83 to 94 % for sgd. Faults of adamw there that are not seen: a
// decay of less than half a rounding (rate times decay below 2^-9), a wrong beta2, a norm of the rank's own shards that is off by
// much the same factor in each step.
#pragma once

#include <cstdint>

#include "harness/base/dtype.h"
#include "harness/tolerance/composed.h"

namespace moecheck::tolerance {

struct AdamWRates {
  double learning_rate = 0;
  double keep = 1;          // 1 - learning_rate * weight_decay
  double correction_m = 1;  // 1 - beta1^t
  double correction_v = 1;
  double eps = 0;
  double ratio_limit = 0;   // adamw_ratio_limit
};

// A number that was rounded to `dtype` after it lay within near.bound of near.value.
Near stored(const Near& near, base::DType dtype);
// Numbers that are rounded to `shown`, a number of `dtype`.
Near rounded_to(double shown, base::DType dtype);
// What two statements about one number leave; the second where they contradict each other.
Near narrowed(const Near& first, const Near& second);

class StepBounds {
 public:
  explicit StepBounds(base::DType state) : state_(state), u_(base::unit_roundoff(state)), underflow_(base::underflow_unit(state)) {}

  // Of a sum of numbers without error; magnitude is the sum of their sizes.
  double sum(double magnitude, std::int64_t additions) const;

  // Of a global norm over `squares` numbers, put together of `parts` norms. propagated: the l2 norm of the numbers' own bounds.
  double norm(double value, double propagated, std::int64_t squares, std::int64_t parts) const;
  // Relative, of the factor limit / (norm + guard).
  double clip_slack() const;
  // Of gradient times clip factor.
  double clipped(const Near& gradient, const Near& clip) const;

  // keep m + (1 - keep) g, also as an interpolation, and keep v + (1 - keep) g^2. Near a gradient that was clipped.
  double first_moment(const Near& m, const Near& gradient, double keep) const;
  double second_moment(const Near& v, const Near& gradient, double keep) const;
  // Largest |m^| / sqrt(v^) for any gradients of `steps` steps, by Cauchy and Schwarz: where a gradient is so small, or cancels so far,
  // that its sign is not known, a step is known to be no longer than this. Roundings of that many steps are counted in.
  double adamw_ratio_limit(double beta1, double beta2, std::int64_t steps) const;
  // The weight, decayed, stepped and stored; m and v are those after the step. value: by the formula from the values.
  Near adamw_weight(double value, const Near& theta, const Near& m, const Near& v, const AdamWRates& rates) const;

  // mu b + (g + decay theta).
  double momentum(const Near& buffer, const Near& gradient, const Near& theta, double mu, double decay) const;
  Near sgd_weight(double value, const Near& theta, const Near& buffer, double learning_rate) const;

 private:
  base::DType state_;
  double u_;
  double underflow_;
};

}  // namespace moecheck::tolerance
