// The gradients of the layer, written out by hand: each function is the chain rule for one formula of the forward.
//
// The routing is fixed: the choice of the experts has no gradient (Shazeer et al., "Outrageously Large Neural Networks",
// section 2.1: gradients flow through the kept gate values only).
// d_z is the gradient of a scalar loss with respect to z, of z's shape.
#pragma once

#include <functional>

#include "harness/model/problem.h"
#include "reference/dispatch.h"
#include "reference/weights.h"

namespace moecheck::reference {

// Of out = in W^T: d_in = d_out W, d_W = d_out^T in. Goodfellow et al., "Deep Learning", section 6.5.6.
template <typename Scalar>
struct LinearGradient {
  Matrix<Scalar> d_in;
  Matrix<Scalar> d_w;
};
template <typename Scalar>
LinearGradient<Scalar> linear_backward(const Matrix<Scalar>& in, const Matrix<Scalar>& w, const Matrix<Scalar>& d_out);

// swish'(g) = s(z) (1 + z (1 - s(z))), z = alpha g, s(z) = 1 / (1 + exp(-z)): Elfwing et al., "Sigmoid-Weighted Linear Units", section 2.
// 0 beyond the limit.
template <typename Scalar>
Scalar swish_slope(Scalar gate, const model::Activation& activation = {});

// Of act = swish(gate) * shifted_up(up): d_gate = d_act * shifted_up(up) * swish'(gate), d_up = d_act * swish(gate), 0 where up is clamped;
// gates in the first half.
template <typename Scalar>
Matrix<Scalar> swiglu_backward(const Matrix<Scalar>& gate_up_RG, const Matrix<Scalar>& d_act_RF, const model::Activation& activation = {});

// Of p = softmax(h), row by row: d_h_j = p_j (d_p_j - sum_i p_i d_p_i), the differential of Switch Transformers, equation 1.
template <typename Scalar>
Matrix<Scalar> softmax_backward(const Matrix<Scalar>& p, const Matrix<Scalar>& d_p);

// Of s_k = q_k / z with z = sum_j q_j, row by row: d_q_k = (d_s_k - sum_j s_j d_s_j) / z, the quotient rule.
template <typename Scalar>
Matrix<Scalar> renormalise_backward(const Matrix<Scalar>& q_TK, const Matrix<Scalar>& d_scores_TK);

// Of scores_from_logits (reference/router.h). An expert that sits in two slots of a token gets the sum of both.
// Requires: 0 <= id < E.
template <typename Scalar>
Matrix<Scalar> scores_backward(const Matrix<Scalar>& logits_TE, const IdMatrix& ids_TK, const Matrix<Scalar>& d_scores_TK,
                               const model::ModelSpec& spec);

// Of y_t = sum_k s_tk out_tk: d_out_tk = s_tk d_y_t, d_s_tk = <out_tk, d_y_t>. Row i of each belongs to rows[i].
template <typename Scalar>
struct CombineGradient {
  Matrix<Scalar> d_out_RD;
  Matrix<Scalar> d_scores_R1;
};
template <typename Scalar>
CombineGradient<Scalar> combine_backward(std::span<const RoutedRow> rows, const Matrix<Scalar>& scores_TK,
                                         const Matrix<Scalar>& out_RD, const Matrix<Scalar>& d_y_TD);

// Of in_tk = s_tk x_t, where the score goes before the experts: d_x_tk = s_tk d_in_tk, d_s_tk = <x_t, d_in_tk>.
template <typename Scalar>
struct WeightingGradient {
  Matrix<Scalar> d_x_RD;
  Matrix<Scalar> d_scores_R1;
};
template <typename Scalar>
WeightingGradient<Scalar> weighting_backward(std::span<const RoutedRow> rows, const Matrix<Scalar>& scores_TK,
                                             const Matrix<Scalar>& x_TD, const Matrix<Scalar>& d_in_RD);

template <typename Scalar>
struct ExpertGradient {
  Dim expert = 0;
  Dim num_rows = 0;              // routed rows that the gradients are sums over
  Matrix<Scalar> d_gate_up_GD;
  Matrix<Scalar> d_down_DF;

  // No token chose the expert: the gradients are exact zeros, and a framework may leave them out (None).
  bool is_idle() const { return num_rows == 0; }
};

// The gradient of ExpertSum, taking experts one after another in any order, each at most once. The forward's intermediate
// values of an expert are computed again, and forgotten with it.
template <typename Scalar>
class ExpertSumBackward {
 public:
  // Requires: 0 <= id < E; d_y_TD has the shape of x_TD.
  ExpertSumBackward(Matrix<Scalar> x_TD, const IdMatrix& ids_TK, Matrix<Scalar> scores_TK, Matrix<Scalar> d_y_TD,
                    const model::ModelSpec& spec, model::ScorePosition position = model::ScorePosition::kAfterExperts);

  bool needs(Dim expert) const { return !dispatch_.rows_of(expert).empty(); }
  ExpertGradient<Scalar> add(Dim expert, const ExpertWeights<Scalar>& weights);
  // Through the experts only, without the router; complete when every expert that is needed was added.
  const Matrix<Scalar>& d_x_TD() const { return d_x_TD_; }
  const Matrix<Scalar>& d_scores_TK() const { return d_scores_TK_; }

 private:
  Matrix<Scalar> x_TD_;
  Dispatch dispatch_;
  Matrix<Scalar> scores_TK_;
  Matrix<Scalar> d_y_TD_;
  model::Activation activation_;
  model::ScorePosition position_;
  Matrix<Scalar> d_x_TD_;
  Matrix<Scalar> d_scores_TK_;
};

template <typename Scalar>
struct LayerGradient {
  Matrix<Scalar> d_x_TD;
  Matrix<Scalar> d_router_ED;
  Matrix<Scalar> d_scores_TK;  // of the routing weights
  Matrix<Scalar> d_logits_TE;
};

// Called once for each expert in ascending order, idle ones included.
template <typename Scalar>
using ExpertGradientSink = std::function<void(ExpertGradient<Scalar>)>;

// The gradient of MoeLayer::forward(x_TD, ids_TK), given that of its output.
// Holds the weights and gradients of one expert at a time; the weights of idle experts are not asked for.
template <typename Scalar>
class MoeLayerBackward {
 public:
  // Requires: `weights` outlives this.
  MoeLayerBackward(const model::ModelSpec& spec, Weights<Scalar>& weights,
                   model::ScorePosition position = model::ScorePosition::kAfterExperts)
      : spec_(spec), weights_(weights), position_(position) {}

  // Requires: 0 <= id < E; d_y_TD has the shape of x_TD.
  LayerGradient<Scalar> backward(const Matrix<Scalar>& x_TD, const IdMatrix& ids_TK, const Matrix<Scalar>& d_y_TD,
                                 const ExpertGradientSink<Scalar>& sink) const;

 private:
  ExpertGradient<Scalar> idle_gradient(Dim expert) const;

  model::ModelSpec spec_;
  Weights<Scalar>& weights_;
  model::ScorePosition position_;
};

}  // namespace moecheck::reference
