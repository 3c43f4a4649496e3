#include "reference/experts.h"

#include <cmath>

namespace moecheck::reference {

template <typename Scalar>
Matrix<Scalar> gate_up(const Matrix<Scalar>& x_RD, const Matrix<Scalar>& w_gate_up_GD) {
  return x_RD * w_gate_up_GD.transpose();
}

template <typename Scalar>
Scalar silu(Scalar gate) {
  return gate / (Scalar{1} + std::exp(-gate));
}

template <typename Scalar>
Matrix<Scalar> swiglu(const Matrix<Scalar>& gate_up_RG) {
  MOECHECK_REQUIRE(gate_up_RG.cols() % 2 == 0);
  const Dim d_ff = gate_up_RG.cols() / 2;
  return gate_up_RG.leftCols(d_ff).unaryExpr([](Scalar g) { return silu(g); }).cwiseProduct(gate_up_RG.rightCols(d_ff));
}

template <typename Scalar>
Matrix<Scalar> down(const Matrix<Scalar>& act_RF, const Matrix<Scalar>& w_down_DF) {
  return act_RF * w_down_DF.transpose();
}

template <typename Scalar>
Matrix<Scalar> expert_output(const Matrix<Scalar>& x_RD, const ExpertWeights<Scalar>& weights) {
  return down(swiglu(gate_up(x_RD, weights.w_gate_up_GD)), weights.w_down_DF);
}

template Matrix<float> gate_up(const Matrix<float>&, const Matrix<float>&);
template float silu(float);
template Matrix<float> swiglu(const Matrix<float>&);
template Matrix<float> down(const Matrix<float>&, const Matrix<float>&);
template Matrix<float> expert_output(const Matrix<float>&, const ExpertWeights<float>&);
template Matrix<double> gate_up(const Matrix<double>&, const Matrix<double>&);
template double silu(double);
template Matrix<double> swiglu(const Matrix<double>&);
template Matrix<double> down(const Matrix<double>&, const Matrix<double>&);
template Matrix<double> expert_output(const Matrix<double>&, const ExpertWeights<double>&);

}  // namespace moecheck::reference
