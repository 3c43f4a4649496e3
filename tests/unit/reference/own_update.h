// Steps of one element, operation by operation as torch's single-tensor optimizers round. No numerics of the reference.
#pragma once

#include <cmath>

#include "harness/cases/case.h"

namespace moecheck::own_step {

inline double fp32(double x) { return static_cast<double>(static_cast<float>(x)); }
// Computed in fp32, stored in the state's dtype.
inline double stored(double x, base::DType state) { return base::round_to(state, fp32(x)); }

struct Rates {
  double learning_rate = 0;
  double decay = 0;
  double momentum = 0;
  double beta2 = 0;
  bool is_corrected = true;
};

struct Element {
  double& theta;
  double& m;
  double& v;
};

// steps: those taken, with this one.
inline void adamw(const Element& at, double g, model::Dim steps, const Rates& rates, base::DType state) {
  const auto rounded = [&](double x) { return stored(x, state); };
  const double beta1 = cases::Training::kBeta1, beta2 = rates.beta2;
  const auto t = static_cast<double>(steps);
  const double c1 = rates.is_corrected ? 1 - std::pow(beta1, t) : 1, c2 = rates.is_corrected ? 1 - std::pow(beta2, t) : 1;
  at.theta = rounded(at.theta * (1 - rates.learning_rate * rates.decay));
  at.m = rounded(at.m + fp32((1 - beta1) * fp32(g - at.m)));
  at.v = rounded(rounded(at.v * beta2) + fp32((1 - beta2) * fp32(g * g)));
  const double root = rounded(rounded(rounded(std::sqrt(at.v)) / std::sqrt(c2)) + cases::Training::kEps);
  at.theta = rounded(at.theta - fp32(rates.learning_rate / c1) * fp32(at.m / root));
}

inline void sgd(const Element& at, double gradient, model::Dim steps, const Rates& rates, base::DType state) {
  const auto rounded = [&](double x) { return stored(x, state); };
  const double g = rounded(gradient + fp32(rates.decay * at.theta));
  at.m = steps == 1 ? g : rounded(rounded(rates.momentum * at.m) + g);
  at.theta = rounded(at.theta - fp32(rates.learning_rate * at.m));
}

}  // namespace moecheck::own_step
