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
Matrix<Scalar> sgd_momentum(const SgdState<Scalar>& before, const Matrix<Scalar>& gradient, const SgdOptions& options) {
  require_same_shape(before.theta, gradient);
  const auto mu = static_cast<Scalar>(options.momentum);
  const auto decay = static_cast<Scalar>(options.weight_decay);
  return mu * before.momentum + (gradient + decay * before.theta);
}

template <typename Scalar>
Matrix<Scalar> sgd_theta(const Matrix<Scalar>& theta, const Matrix<Scalar>& momentum, const SgdOptions& options) {
  require_same_shape(theta, momentum);
  return theta - static_cast<Scalar>(options.learning_rate) * momentum;
}

template <typename Scalar>
SgdState<Scalar> sgd_step(const SgdState<Scalar>& before, const Matrix<Scalar>& gradient, const SgdOptions& options) {
  SgdState<Scalar> after;
  after.momentum = sgd_momentum(before, gradient, options);
  after.theta = sgd_theta(before.theta, after.momentum, options);
  return after;
}

template <typename Scalar>
AdamWState<Scalar> adamw_start(Matrix<Scalar> theta) {
  const Matrix<Scalar> zero = Matrix<Scalar>::Zero(theta.rows(), theta.cols());
  return {std::move(theta), zero, zero, 0};
}

// Constants of the three parts are formed in double and rounded once.
template <typename Scalar>
Matrix<Scalar> adamw_m(const Matrix<Scalar>& m, const Matrix<Scalar>& gradient, const AdamWOptions& options) {
  require_same_shape(m, gradient);
  return static_cast<Scalar>(options.beta1) * m + static_cast<Scalar>(1 - options.beta1) * gradient;
}

template <typename Scalar>
Matrix<Scalar> adamw_v(const Matrix<Scalar>& v, const Matrix<Scalar>& gradient, const AdamWOptions& options) {
  require_same_shape(v, gradient);
  return static_cast<Scalar>(options.beta2) * v + static_cast<Scalar>(1 - options.beta2) * gradient.cwiseProduct(gradient);
}

template <typename Scalar>
Matrix<Scalar> adamw_theta(const AdamWState<Scalar>& before, const AdamWOptions& options) {
  const auto t = static_cast<double>(before.step);
  const auto lr = static_cast<Scalar>(options.learning_rate);
  const auto eps = static_cast<Scalar>(options.eps);
  const auto keep = static_cast<Scalar>(1 - options.learning_rate * options.weight_decay);
  const Matrix<Scalar> m_hat = before.m / static_cast<Scalar>(1 - std::pow(options.beta1, t));
  const Matrix<Scalar> v_hat = before.v / static_cast<Scalar>(1 - std::pow(options.beta2, t));
  return keep * before.theta - lr * (m_hat.array() / (v_hat.array().sqrt() + eps)).matrix();
}

template <typename Scalar>
AdamWState<Scalar> adamw_step(const AdamWState<Scalar>& before, const Matrix<Scalar>& gradient, const AdamWOptions& options) {
  require_same_shape(before.theta, gradient);
  AdamWState<Scalar> after;
  after.step = before.step + 1;
  after.m = adamw_m(before.m, gradient, options);
  after.v = adamw_v(before.v, gradient, options);
  after.theta = adamw_theta<Scalar>({before.theta, after.m, after.v, after.step}, options);
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
template Matrix<float> sgd_momentum(const SgdState<float>&, const Matrix<float>&, const SgdOptions&);
template Matrix<float> sgd_theta(const Matrix<float>&, const Matrix<float>&, const SgdOptions&);
template SgdState<float> sgd_step(const SgdState<float>&, const Matrix<float>&, const SgdOptions&);
template AdamWState<float> adamw_start(Matrix<float>);
template Matrix<float> adamw_m(const Matrix<float>&, const Matrix<float>&, const AdamWOptions&);
template Matrix<float> adamw_v(const Matrix<float>&, const Matrix<float>&, const AdamWOptions&);
template Matrix<float> adamw_theta(const AdamWState<float>&, const AdamWOptions&);
template AdamWState<float> adamw_step(const AdamWState<float>&, const Matrix<float>&, const AdamWOptions&);
template void GlobalNorm::add(const Matrix<float>&);
template class GradientSum<float>;
template SgdState<double> sgd_start(Matrix<double>);
template Matrix<double> sgd_momentum(const SgdState<double>&, const Matrix<double>&, const SgdOptions&);
template Matrix<double> sgd_theta(const Matrix<double>&, const Matrix<double>&, const SgdOptions&);
template SgdState<double> sgd_step(const SgdState<double>&, const Matrix<double>&, const SgdOptions&);
template AdamWState<double> adamw_start(Matrix<double>);
template Matrix<double> adamw_m(const Matrix<double>&, const Matrix<double>&, const AdamWOptions&);
template Matrix<double> adamw_v(const Matrix<double>&, const Matrix<double>&, const AdamWOptions&);
template Matrix<double> adamw_theta(const AdamWState<double>&, const AdamWOptions&);
template AdamWState<double> adamw_step(const AdamWState<double>&, const Matrix<double>&, const AdamWOptions&);
template void GlobalNorm::add(const Matrix<double>&);
template class GradientSum<double>;

SgdOptions sgd_options(const cases::Case& one, Dim step) {
  return {one.learning_rate_of(step), one.training.momentum, one.training.weight_decay};
}

AdamWOptions adamw_options(const cases::Case& one, Dim step) {
  return {one.learning_rate_of(step), cases::Training::kBeta1, cases::Training::kBeta2, cases::Training::kEps, one.training.weight_decay};
}

}  // namespace moecheck::reference
