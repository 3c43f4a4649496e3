#include "reference/experts.h"

#include <algorithm>
#include <cmath>

namespace moecheck::reference {

template <typename Scalar>
Matrix<Scalar> gate_up(const Matrix<Scalar>& x_RD, const Matrix<Scalar>& w_gate_up_GD) {
  return x_RD * w_gate_up_GD.transpose();
}

template <typename Scalar>
Scalar swish(Scalar gate, const model::Activation& activation) {
  const Scalar clamped = std::min(gate, static_cast<Scalar>(activation.limit));
  return clamped / (Scalar{1} + std::exp(-static_cast<Scalar>(activation.alpha) * clamped));
}

template <typename Scalar>
Scalar shifted_up(Scalar up, const model::Activation& activation) {
  const auto limit = static_cast<Scalar>(activation.limit);
  return std::clamp(up, -limit, limit) + static_cast<Scalar>(activation.up_shift);
}

template <typename Scalar>
Matrix<Scalar> swiglu(const Matrix<Scalar>& gate_up_RG, const model::Activation& activation) {
  MOECHECK_REQUIRE(gate_up_RG.cols() % 2 == 0);
  const Dim d_ff = gate_up_RG.cols() / 2;
  const Matrix<Scalar> up_RF = gate_up_RG.rightCols(d_ff).unaryExpr([&](Scalar up) { return shifted_up(up, activation); });
  return gate_up_RG.leftCols(d_ff).unaryExpr([&](Scalar gate) { return swish(gate, activation); }).cwiseProduct(up_RF);
}

template <typename Scalar>
Matrix<Scalar> down(const Matrix<Scalar>& act_RF, const Matrix<Scalar>& w_down_DF) {
  return act_RF * w_down_DF.transpose();
}

template <typename Scalar>
Matrix<Scalar> expert_output(const Matrix<Scalar>& x_RD, const ExpertWeights<Scalar>& weights,
                             const model::Activation& activation) {
  return down(swiglu(gate_up(x_RD, weights.w_gate_up_GD), activation), weights.w_down_DF);
}

template Matrix<float> gate_up(const Matrix<float>&, const Matrix<float>&);
template float swish(float, const model::Activation&);
template float shifted_up(float, const model::Activation&);
template Matrix<float> swiglu(const Matrix<float>&, const model::Activation&);
template Matrix<float> down(const Matrix<float>&, const Matrix<float>&);
template Matrix<float> expert_output(const Matrix<float>&, const ExpertWeights<float>&, const model::Activation&);
template Matrix<double> gate_up(const Matrix<double>&, const Matrix<double>&);
template double swish(double, const model::Activation&);
template double shifted_up(double, const model::Activation&);
template Matrix<double> swiglu(const Matrix<double>&, const model::Activation&);
template Matrix<double> down(const Matrix<double>&, const Matrix<double>&);
template Matrix<double> expert_output(const Matrix<double>&, const ExpertWeights<double>&, const model::Activation&);

}  // namespace moecheck::reference
