// What rounds on the way to an element of the activation and of its gradient.
//
// silu is one operation of a tensor library, forward and backward. The clamped activation is composed of many, each of which stores its
// result: z = alpha c; s(z), which the error of z moves by |z| (1 - s) relative to it; c s; up + shift; their product; and the same backwards, where
// s' = s (1 - s) is formed of the stored s, and the two ways to the gate are added up.
#pragma once

#include "harness/model/model_spec.h"
#include "harness/tolerance/composed.h"

namespace moecheck::reference {

// How often a part is stored beside what tolerance::Stage counts: of act (two), of the gradient of gate or up (none but the last).
struct ActivationStores {
  std::int64_t forward = 0;
  std::int64_t backward = 0;
};
ActivationStores activation_stores(const model::Activation& activation);

// Sums of what is rounded, by size: of act, and of the derivatives of act by gate and up.
struct ActivationSizes {
  double act = 0;
  double by_gate = 0;
  double by_up = 0;
};
ActivationSizes activation_sizes(double gate, double up, const model::Activation& activation);
// At most, anywhere within the bounds.
ActivationSizes activation_sizes(const tolerance::Near& gate, const tolerance::Near& up, const model::Activation& activation);

}  // namespace moecheck::reference
