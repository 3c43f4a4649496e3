#include "reference/optimizer.h"

#include <cmath>
#include <utility>

namespace moecheck::reference {
namespace {

// Keeps a zero norm from a division by zero; torch's value.
constexpr double kClipGuard = 1e-6;

template <typename Scalar>
void require_same_shape(const Matrix<Scalar>& a, const Matrix<Scalar>& b) {
  MOECHECK_REQUIRE(a.rows() == b.rows() && a.cols() == b.cols());
}

}  // namespace

template <typename Scalar>
SgdState<Scalar> sgd_start(Matrix<Scalar> theta) {
  Matrix<Scalar> momentum = Matrix<Scalar>::Zero(theta.rows(), theta.cols());
  return {std::move(theta), std::move(momentum)};
}

template <typename Scalar>
SgdState<Scalar> sgd_step(const SgdState<Scalar>& before, const Matrix<Scalar>& gradient, const SgdOptions& options) {
  require_same_shape(before.theta, gradient);
  const auto lr = static_cast<Scalar>(options.learning_rate);
  const auto mu = static_cast<Scalar>(options.momentum);
  const auto decay = static_cast<Scalar>(options.weight_decay);
  SgdState<Scalar> after;
  after.momentum = mu * before.momentum + (gradient + decay * before.theta);
  after.theta = before.theta - lr * after.momentum;
  return after;
}

template <typename Scalar>
AdamWState<Scalar> adamw_start(Matrix<Scalar> theta) {
  const Matrix<Scalar> zero = Matrix<Scalar>::Zero(theta.rows(), theta.cols());
  return {std::move(theta), zero, zero, 0};
}

template <typename Scalar>
AdamWState<Scalar> adamw_step(const AdamWState<Scalar>& before, const Matrix<Scalar>& gradient, const AdamWOptions& options) {
  require_same_shape(before.theta, gradient);
  const Dim t = before.step + 1;
  // Constants are formed in double and rounded once.
  const auto lr = static_cast<Scalar>(options.learning_rate);
  const auto eps = static_cast<Scalar>(options.eps);
  const auto keep = static_cast<Scalar>(1 - options.learning_rate * options.weight_decay);
  const auto b1 = static_cast<Scalar>(options.beta1);
  const auto b2 = static_cast<Scalar>(options.beta2);
  const auto take1 = static_cast<Scalar>(1 - options.beta1);
  const auto take2 = static_cast<Scalar>(1 - options.beta2);
  const auto correction1 = static_cast<Scalar>(1 - std::pow(options.beta1, static_cast<double>(t)));
  const auto correction2 = static_cast<Scalar>(1 - std::pow(options.beta2, static_cast<double>(t)));

  AdamWState<Scalar> after;
  after.step = t;
  after.m = b1 * before.m + take1 * gradient;
  after.v = b2 * before.v + take2 * gradient.cwiseProduct(gradient);
  const Matrix<Scalar> m_hat = after.m / correction1;
  const Matrix<Scalar> v_hat = after.v / correction2;
  after.theta = keep * before.theta - lr * (m_hat.array() / (v_hat.array().sqrt() + eps)).matrix();
  return after;
}

Matrix<float> low_precision_copy(const Matrix<float>& master, base::DType dtype) {
  return master.unaryExpr([&](float w) { return static_cast<float>(base::round_to(dtype, static_cast<double>(w))); });
}

template <typename Scalar>
void GlobalNorm::add(const Matrix<Scalar>& gradient) {
  sum_of_squares_ += gradient.template cast<double>().squaredNorm();
}

double GlobalNorm::value() const { return std::sqrt(sum_of_squares_); }

double clip_coefficient(double norm, double max_norm) {
  const double coefficient = max_norm / (norm + kClipGuard);
  return coefficient > 1 ? 1 : coefficient;  // not std::min, which turns NaN into 1
}

template <typename Scalar>
void GradientSum<Scalar>::add(const Matrix<Scalar>& gradient) {
  require_same_shape(sum_, gradient);
  sum_ += gradient;
}

template <typename Scalar>
Matrix<Scalar> GradientSum<Scalar>::mean(Dim divisor) const {
  MOECHECK_REQUIRE(divisor > 0);
  return sum_ / static_cast<Scalar>(divisor);
}

template SgdState<float> sgd_start(Matrix<float>);
template SgdState<float> sgd_step(const SgdState<float>&, const Matrix<float>&, const SgdOptions&);
template AdamWState<float> adamw_start(Matrix<float>);
template AdamWState<float> adamw_step(const AdamWState<float>&, const Matrix<float>&, const AdamWOptions&);
template void GlobalNorm::add(const Matrix<float>&);
template class GradientSum<float>;
template SgdState<double> sgd_start(Matrix<double>);
template SgdState<double> sgd_step(const SgdState<double>&, const Matrix<double>&, const SgdOptions&);
template AdamWState<double> adamw_start(Matrix<double>);
template AdamWState<double> adamw_step(const AdamWState<double>&, const Matrix<double>&, const AdamWOptions&);
template void GlobalNorm::add(const Matrix<double>&);
template class GradientSum<double>;

}  // namespace moecheck::reference
