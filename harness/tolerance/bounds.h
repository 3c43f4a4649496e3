// Hard bounds: an element that errs by more than these is wrong under the declared arithmetic, whatever the order of summation.
//
// Arithmetic:  inputs of a stage are what the subject recorded, bit for bit; they are upcast, so they add no error. Sums of
//              products are accumulated in fp32 (u_a = 2^-24); results are stored in the case's dtype (u_s).
// Source:      gamma_n = n u / (1 - n u), Higham, Accuracy and Stability of Numerical Algorithms, ch. 3.
// The bounds are worst cases: an honest run stays far below them, and a fault below them is not seen by them.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "harness/base/dtype.h"

namespace moecheck::tolerance {

enum class Stage {
  kExact,       // copied, or rounded once from what is recorded: input, the parameters of a master copy
  kDispatch,    // a copied row (terms 0), or one times its score (terms 1)
  kMatmul,      // logits, gate_up, out: a dot product of `terms` products
  kScores,      // softmax over `terms` logits, taken in fp32
  kActivation,  // swish(gate) * up, of which `roundings` parts were stored beside the first factor and the product
  kCombine,     // weighted sum over `terms` slots
  kReduction,   // sum of `terms` ranks' partial results, in the store dtype
  kSoftmaxGradient,  // like kGradient, of products with probabilities that fp32 may flush to zero
  kGradient,    // sums of `terms` products in fp32, whose parts were stored and added `roundings` times in the store dtype
  // In fp32, whatever the case's dtype is:
  kOptimizer,   // formulas of an optimizer's step, of at most `terms` roundings from an input to the result
  kNorm,        // the root of a sum of `terms` squares
};

// The stage that a tap shows; none for taps that are not computed in floating point.
std::optional<Stage> stage_of_tap(std::string_view tap);

struct StageBoundInput {
  Stage stage = Stage::kExact;
  base::DType store = base::DType::kF32;
  double value = 0;         // what the reference says
  double magnitude = 0;     // sum of |summands|
  std::int64_t terms = 1;
  double stored = 0;           // kGradient: sum of |stored parts|
  std::int64_t roundings = 0;  // kGradient: of one such part, the last store not counted; kActivation: see there
};

// n u / (1 - n u). Requires: n u < 1.
double gamma(std::int64_t n, double u);

// The bound of a stage for many elements: what they share is computed once.
class StageBound {
 public:
  // Requires: terms and roundings as in StageBoundInput, few enough for their gamma to exist.
  StageBound(Stage stage, base::DType store, std::int64_t terms, std::int64_t roundings);

  // Largest |got - value| that an honest implementation can show; NaN or infinite if the value is.
  double of(double value, double magnitude, double stored) const;

 private:
  double scores_bound(double value) const;

  Stage stage_;
  double u_s_;               // unit roundoff of the store dtype
  double underflow_;         // of all summands and the result
  double terms_;
  double accumulated_ = 0;   // gamma over the terms, in the arithmetic of the stage
  double stored_ = 0;        // gamma over the roundings
};

double stage_bound(const StageBoundInput& in);

// How far the sigmoid of a logit, taken in fp32, can lie from `value`.
double sigmoid_order_slack(double value);

// Two probabilities of one softmax may come out in the other order if their logits differ by less than this.
double softmax_order_slack(std::int64_t num_experts);

// An expert whose logit lies this far below the largest may have a probability of 0 in fp32: any order among such is right.
double softmax_flush_distance();

// err <= bound, so that NaN fails.
inline bool within(double err, double bound) { return err <= bound; }

// err / bound; infinite for an error where none is allowed, NaN for NaN.
double used(double err, double bound);

}  // namespace moecheck::tolerance
