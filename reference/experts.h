// One expert: a gated feed-forward network on the rows that were dispatched to it.
#pragma once

#include "harness/model/model_spec.h"
#include "reference/matrix.h"

namespace moecheck::reference {

// Packed as in the checkpoints' fused form: F gate rows, then F up rows.
template <typename Scalar>
struct ExpertWeights {
  Matrix<Scalar> w_gate_up_GD;
  Matrix<Scalar> w_down_DF;
};

// [x W | x V] of FFN_SwiGLU(x) = (Swish_1(x W) * x V) W_2: Shazeer, "GLU Variants Improve Transformer", equation 6.
template <typename Scalar>
Matrix<Scalar> gate_up(const Matrix<Scalar>& x_RD, const Matrix<Scalar>& w_gate_up_GD);

// c / (1 + exp(-alpha c)), c = min(gate, limit): Swish with beta = alpha, Ramachandran et al., "Searching for Activation Functions"; silu
// for alpha = 1 without a limit.
template <typename Scalar>
Scalar swish(Scalar gate, const model::Activation& activation = {});

// clamp(up, -limit, limit) + up_shift
template <typename Scalar>
Scalar shifted_up(Scalar up, const model::Activation& activation);

// swish(gate) * shifted_up(up), gates in the first half of the columns.
// Requires: an even number of columns.
template <typename Scalar>
Matrix<Scalar> swiglu(const Matrix<Scalar>& gate_up_RG, const model::Activation& activation = {});

// The product with W_2.
template <typename Scalar>
Matrix<Scalar> down(const Matrix<Scalar>& act_RF, const Matrix<Scalar>& w_down_DF);

// E(x) = down(swiglu(gate_up(x))).
template <typename Scalar>
Matrix<Scalar> expert_output(const Matrix<Scalar>& x_RD, const ExpertWeights<Scalar>& weights, const model::Activation& activation = {});

}  // namespace moecheck::reference
