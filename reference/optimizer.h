// One step of the optimizers, and what happens to gradients before it: accumulation and clipping.
//
// Steps are pure: state before, gradient -> state after, so that a recorded state can be fed in. One state a parameter,
// with its own step count. An expert without tokens has a gradient of zeros, with which it still decays and moves on with
// its moments; where the gradient was left out (None) the caller takes no step.
#pragma once

#include "harness/base/dtype.h"
#include "harness/cases/case.h"
#include "reference/matrix.h"

namespace moecheck::reference {

struct SgdOptions {
  double learning_rate = 0;
  double momentum = 0;
  double weight_decay = 0;
};

template <typename Scalar>
struct SgdState {
  Matrix<Scalar> theta;
  Matrix<Scalar> momentum;
};

template <typename Scalar>
SgdState<Scalar> sgd_start(Matrix<Scalar> theta);

// g' = g + wd theta;  b <- mu b + g';  theta <- theta - lr b.
// torch.optim.SGD with dampening 0 and without nesterov; b starts at 0, so that the first b is g'. The learning rate is
// outside of b, unlike in Sutskever et al., "On the importance of initialization and momentum in deep learning", equation 1.
// The two halves of it, so that a recorded b can be fed in.
template <typename Scalar>
Matrix<Scalar> sgd_momentum(const SgdState<Scalar>& before, const Matrix<Scalar>& gradient, const SgdOptions& options);
template <typename Scalar>
Matrix<Scalar> sgd_theta(const Matrix<Scalar>& theta, const Matrix<Scalar>& momentum, const SgdOptions& options);
template <typename Scalar>
SgdState<Scalar> sgd_step(const SgdState<Scalar>& before, const Matrix<Scalar>& gradient, const SgdOptions& options);

struct AdamWOptions {
  double learning_rate = 0;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0;
};

template <typename Scalar>
struct AdamWState {
  Matrix<Scalar> theta;
  Matrix<Scalar> m;
  Matrix<Scalar> v;
  Dim step = 0;  // steps taken
};

template <typename Scalar>
AdamWState<Scalar> adamw_start(Matrix<Scalar> theta);

// m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2;  m^ = m / (1 - b1^t);  v^ = v / (1 - b2^t), t counted from 1:
//   Kingma & Ba, "Adam", algorithm 1, eps outside of the root.
// theta <- theta - lr wd theta - lr m^ / (sqrt(v^) + eps): Loshchilov & Hutter, "Decoupled Weight Decay Regularization",
//   algorithm 2, with the decay scaled by lr as torch.optim.AdamW has it.
// Its parts, so that recorded moments can be fed in. `before` of adamw_theta is theta before the step with m, v and the number of
// steps after it.
template <typename Scalar>
Matrix<Scalar> adamw_m(const Matrix<Scalar>& m, const Matrix<Scalar>& gradient, const AdamWOptions& options);
template <typename Scalar>
Matrix<Scalar> adamw_v(const Matrix<Scalar>& v, const Matrix<Scalar>& gradient, const AdamWOptions& options);
template <typename Scalar>
Matrix<Scalar> adamw_theta(const AdamWState<Scalar>& before, const AdamWOptions& options);
template <typename Scalar>
AdamWState<Scalar> adamw_step(const AdamWState<Scalar>& before, const Matrix<Scalar>& gradient, const AdamWOptions& options);

// The copy that the layer computes with, while the fp32 master takes the steps, so that steps below half an ulp of the copy
// add up: Micikevicius et al., "Mixed Precision Training", section 3.1. Round to nearest, ties to even; values of `dtype`.
Matrix<float> low_precision_copy(const Matrix<float>& master, base::DType dtype);

// The l2 norm over the gradients of all parameters, which come one after another. Summed in double.
class GlobalNorm {
 public:
  template <typename Scalar>
  void add(const Matrix<Scalar>& gradient);
  double value() const;

 private:
  double sum_of_squares_ = 0;
};

// min(1, max_norm / (norm + 1e-6)): Pascanu et al., "On the difficulty of training recurrent neural networks", algorithm 1,
// as torch.nn.utils.clip_grad_norm_ has it. 0 for an infinite norm, NaN for NaN.
double clip_coefficient(double norm, double max_norm);

// The gradient of a batch from those of its microbatches.
template <typename Scalar>
class GradientSum {
 public:
  GradientSum(Dim rows, Dim columns) : sum_(Matrix<Scalar>::Zero(rows, columns)) {}

  void add(const Matrix<Scalar>& gradient);
  const Matrix<Scalar>& sum() const { return sum_; }
  // `divisor` is what the subject declares: the number of microbatches, of tokens, or of ranks.
  Matrix<Scalar> mean(Dim divisor) const;

 private:
  Matrix<Scalar> sum_;
};

// What a case declares for a step.
SgdOptions sgd_options(const cases::Case& one, Dim step);
AdamWOptions adamw_options(const cases::Case& one, Dim step);

}  // namespace moecheck::reference
