// One expert: a gated feed-forward network on the rows that were dispatched to it.
#pragma once

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

// silu(g) = g / (1 + exp(-g)), which is Swish with beta = 1: Ramachandran et al., "Searching for Activation Functions".
template <typename Scalar>
Scalar silu(Scalar gate);

// silu(gate) * up, gates in the first half of the columns.
// Requires: an even number of columns.
template <typename Scalar>
Matrix<Scalar> swiglu(const Matrix<Scalar>& gate_up_RG);

// The product with W_2.
template <typename Scalar>
Matrix<Scalar> down(const Matrix<Scalar>& act_RF, const Matrix<Scalar>& w_down_DF);

// E(x) = down(swiglu(gate_up(x))).
template <typename Scalar>
Matrix<Scalar> expert_output(const Matrix<Scalar>& x_RD, const ExpertWeights<Scalar>& weights);

}  // namespace moecheck::reference
