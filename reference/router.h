// Which experts a token goes to, and with which weights.
//
// Determinism: each function is a pure one; ties go to the lowest expert id; NaN counts as largest.
#pragma once

#include "harness/model/model_spec.h"
#include "reference/matrix.h"

namespace moecheck::reference {

// h(x) = W_r x: Fedus et al., "Switch Transformers", section 2.1. Row t of the result is W_r x_t.
template <typename Scalar>
Matrix<Scalar> router_logits(const Matrix<Scalar>& x_TD, const Matrix<Scalar>& w_router_ED);

// p_i = exp(h_i) / sum_j exp(h_j), row by row: Switch Transformers, equation 1.
template <typename Scalar>
Matrix<Scalar> softmax(const Matrix<Scalar>& logits);

// s(h) = 1 / (1 + exp(-h)) of each element; 1 - s(h) = s(-h).
template <typename Scalar>
Scalar sigmoid(Scalar h);
template <typename Scalar>
Matrix<Scalar> sigmoid(const Matrix<Scalar>& logits);

// The ids of the k largest entries of each row, largest first.
template <typename Scalar>
IdMatrix top_k(const Matrix<Scalar>& values_TE, Dim k);

// Column k of the result is the column ids_TK(t, k) of each row t.
// Requires: 0 <= id < E.
template <typename Scalar>
Matrix<Scalar> gather_columns(const Matrix<Scalar>& values_TE, const IdMatrix& ids_TK);

// The chosen experts of each token. Before top-k (Switch): the k largest p_i; after (Mixtral), and
// of a sigmoid, which rises with its logit: the k largest logits.
template <typename Scalar>
IdMatrix choose_experts(const Matrix<Scalar>& logits_TE, const model::ModelSpec& spec);

// The gate values of given experts, before or after top-k as the family has it:
//   Switch, equation 2: p_i, and if `spec.renormalise` p_i / sum over the chosen p_j;
//   Jiang et al., "Mixtral of Experts", section 2.1: softmax(TopK(x W_g)) over the chosen logits only;
//   DeepSeek-AI, "DeepSeek-V3", equations 12 to 15, without the bias that selects: s(h_i), and if `spec.renormalise` over their sum.
// Times `spec.routed_scale`.
// Requires: 0 <= id < E.
template <typename Scalar>
Matrix<Scalar> scores_from_logits(const Matrix<Scalar>& logits_TE, const IdMatrix& ids_TK, const model::ModelSpec& spec);

}  // namespace moecheck::reference
