#include "reference/backward.h"

#include <cmath>
#include <utility>

#include "reference/router.h"

namespace moecheck::reference {
namespace {

// The gradient of gather_columns: what was not chosen gets nothing.
template <typename Scalar>
Matrix<Scalar> scatter_columns(const Matrix<Scalar>& d_chosen_TK, const IdMatrix& ids_TK, Dim num_columns) {
  Matrix<Scalar> d_values_TE = Matrix<Scalar>::Zero(d_chosen_TK.rows(), num_columns);
  for (Dim t = 0; t < ids_TK.rows(); ++t)
    for (Dim k = 0; k < ids_TK.cols(); ++k) d_values_TE(t, ids_TK(t, k)) += d_chosen_TK(t, k);
  return d_values_TE;
}

}  // namespace

template <typename Scalar>
LinearGradient<Scalar> linear_backward(const Matrix<Scalar>& in, const Matrix<Scalar>& w, const Matrix<Scalar>& d_out) {
  return {d_out * w, d_out.transpose() * in};
}

template <typename Scalar>
Scalar swish_slope(Scalar gate, const model::Activation& activation) {
  if (gate > static_cast<Scalar>(activation.limit)) return 0;
  const Scalar z = static_cast<Scalar>(activation.alpha) * gate;
  return sigmoid(z) * (Scalar{1} + z * sigmoid(-z));
}

template <typename Scalar>
Matrix<Scalar> swiglu_backward(const Matrix<Scalar>& gate_up_RG, const Matrix<Scalar>& d_act_RF, const model::Activation& activation) {
  const Dim d_ff = d_act_RF.cols();
  MOECHECK_REQUIRE(gate_up_RG.cols() == 2 * d_ff && gate_up_RG.rows() == d_act_RF.rows());
  const auto limit = static_cast<Scalar>(activation.limit);
  Matrix<Scalar> d_gate_up_RG(gate_up_RG.rows(), gate_up_RG.cols());
  for (Dim r = 0; r < d_act_RF.rows(); ++r) {
    for (Dim f = 0; f < d_ff; ++f) {
      const Scalar gate = gate_up_RG(r, f), up = gate_up_RG(r, d_ff + f);
      d_gate_up_RG(r, f) = d_act_RF(r, f) * shifted_up(up, activation) * swish_slope(gate, activation);
      d_gate_up_RG(r, d_ff + f) = std::fabs(up) > limit ? Scalar{0} : d_act_RF(r, f) * swish(gate, activation);
    }
  }
  return d_gate_up_RG;
}

template <typename Scalar>
Matrix<Scalar> softmax_backward(const Matrix<Scalar>& p, const Matrix<Scalar>& d_p) {
  Matrix<Scalar> d_h(p.rows(), p.cols());
  for (Dim t = 0; t < p.rows(); ++t) {
    const Scalar mean = p.row(t).dot(d_p.row(t));
    d_h.row(t) = p.row(t).array() * (d_p.row(t).array() - mean);
  }
  return d_h;
}

template <typename Scalar>
Matrix<Scalar> renormalise_backward(const Matrix<Scalar>& q_TK, const Matrix<Scalar>& d_scores_TK) {
  Matrix<Scalar> d_q_TK(q_TK.rows(), q_TK.cols());
  for (Dim t = 0; t < q_TK.rows(); ++t) {
    const Scalar z = q_TK.row(t).sum();
    const Scalar mean = (q_TK.row(t) / z).dot(d_scores_TK.row(t));
    d_q_TK.row(t) = (d_scores_TK.row(t).array() - mean) / z;
  }
  return d_q_TK;
}

template <typename Scalar>
Matrix<Scalar> scores_backward(const Matrix<Scalar>& logits_TE, const IdMatrix& ids_TK, const Matrix<Scalar>& d_scaled_TK,
                               const model::ModelSpec& spec) {
  MOECHECK_REQUIRE(ids_TK.rows() == d_scaled_TK.rows() && ids_TK.cols() == d_scaled_TK.cols());
  const Matrix<Scalar> d_scores_TK = static_cast<Scalar>(spec.routed_scale) * d_scaled_TK;
  const Dim num_experts = logits_TE.cols();
  if (spec.score_function == model::ScoreFunction::kSoftmaxAfterTopk) {
    const Matrix<Scalar> p_TK = softmax(gather_columns(logits_TE, ids_TK));
    return scatter_columns(softmax_backward(p_TK, d_scores_TK), ids_TK, num_experts);
  }
  const bool is_sigmoid = spec.score_function == model::ScoreFunction::kSigmoid;
  const Matrix<Scalar> p_TE = is_sigmoid ? sigmoid(logits_TE) : softmax(logits_TE);
  const Matrix<Scalar> d_chosen_TK = spec.renormalise ? renormalise_backward(gather_columns(p_TE, ids_TK), d_scores_TK) : d_scores_TK;
  const Matrix<Scalar> d_p_TE = scatter_columns(d_chosen_TK, ids_TK, num_experts);
  // s' = s (1 - s)
  if (is_sigmoid) return d_p_TE.cwiseProduct(p_TE).cwiseProduct(sigmoid(Matrix<Scalar>(-logits_TE)));
  return softmax_backward(p_TE, d_p_TE);
}

template <typename Scalar>
CombineGradient<Scalar> combine_backward(std::span<const RoutedRow> rows, const Matrix<Scalar>& scores_TK,
                                         const Matrix<Scalar>& out_RD, const Matrix<Scalar>& d_y_TD) {
  MOECHECK_REQUIRE(static_cast<Dim>(rows.size()) == out_RD.rows());
  CombineGradient<Scalar> gradient{gather_tokens(d_y_TD, rows), Matrix<Scalar>(out_RD.rows(), 1)};
  for (Dim r = 0; r < out_RD.rows(); ++r) {
    const RoutedRow& row = rows[static_cast<std::size_t>(r)];
    gradient.d_scores_R1(r, 0) = out_RD.row(r).dot(d_y_TD.row(row.token));
    gradient.d_out_RD.row(r) *= scores_TK(row.token, row.slot);
  }
  return gradient;
}

template <typename Scalar>
WeightingGradient<Scalar> weighting_backward(std::span<const RoutedRow> rows, const Matrix<Scalar>& scores_TK,
                                             const Matrix<Scalar>& x_TD, const Matrix<Scalar>& d_in_RD) {
  WeightingGradient<Scalar> gradient{weighted_rows(d_in_RD, rows, scores_TK), Matrix<Scalar>(d_in_RD.rows(), 1)};
  for (Dim r = 0; r < d_in_RD.rows(); ++r) gradient.d_scores_R1(r, 0) = x_TD.row(rows[static_cast<std::size_t>(r)].token).dot(d_in_RD.row(r));
  return gradient;
}

template <typename Scalar>
ExpertSumBackward<Scalar>::ExpertSumBackward(Matrix<Scalar> x_TD, const IdMatrix& ids_TK, Matrix<Scalar> scores_TK,
                                             Matrix<Scalar> d_y_TD, const model::ModelSpec& spec, model::ScorePosition position)
    : x_TD_(std::move(x_TD)),
      dispatch_(dispatch(ids_TK, spec.num_experts)),
      scores_TK_(std::move(scores_TK)),
      d_y_TD_(std::move(d_y_TD)),
      activation_(spec.activation),
      position_(position),
      d_x_TD_(Matrix<Scalar>::Zero(x_TD_.rows(), x_TD_.cols())),
      d_scores_TK_(Matrix<Scalar>::Zero(scores_TK_.rows(), scores_TK_.cols())) {
  MOECHECK_REQUIRE(d_y_TD_.rows() == x_TD_.rows() && d_y_TD_.cols() == x_TD_.cols());
}

template <typename Scalar>
ExpertGradient<Scalar> ExpertSumBackward<Scalar>::add(Dim expert, const ExpertWeights<Scalar>& weights) {
  const auto rows = dispatch_.rows_of(expert);
  const bool weighs_before = position_ == model::ScorePosition::kBeforeExperts;
  const Matrix<Scalar> x_RD = gather_tokens(x_TD_, rows);
  const Matrix<Scalar> in_RD = weighs_before ? weighted_rows(x_RD, rows, scores_TK_) : x_RD;
  const Matrix<Scalar> gate_up_RG = gate_up(in_RD, weights.w_gate_up_GD);
  const Matrix<Scalar> act_RF = swiglu(gate_up_RG, activation_);
  // The score, and with it its gradient, is in the combine or in the weighting of the tokens.
  CombineGradient<Scalar> of_combine;
  if (weighs_before) {
    of_combine.d_out_RD = gather_tokens(d_y_TD_, rows);
  } else {
    of_combine = combine_backward(rows, scores_TK_, down(act_RF, weights.w_down_DF), d_y_TD_);
  }
  auto of_down = linear_backward(act_RF, weights.w_down_DF, of_combine.d_out_RD);
  auto of_gate_up = linear_backward(in_RD, weights.w_gate_up_GD, swiglu_backward(gate_up_RG, of_down.d_in, activation_));
  const auto of_weighting = weighs_before ? weighting_backward(rows, scores_TK_, x_TD_, of_gate_up.d_in)
                                          : WeightingGradient<Scalar>{of_gate_up.d_in, of_combine.d_scores_R1};
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const auto r = static_cast<Dim>(i);
    d_scores_TK_(rows[i].token, rows[i].slot) = of_weighting.d_scores_R1(r, 0);
    // The gradient of gather_tokens: a token's copies add up.
    d_x_TD_.row(rows[i].token) += of_weighting.d_x_RD.row(r);
  }
  return {expert, static_cast<Dim>(rows.size()), std::move(of_gate_up.d_w), std::move(of_down.d_w)};
}

template <typename Scalar>
LayerGradient<Scalar> MoeLayerBackward<Scalar>::backward(const Matrix<Scalar>& x_TD, const IdMatrix& ids_TK,
                                                         const Matrix<Scalar>& d_y_TD,
                                                         const ExpertGradientSink<Scalar>& sink) const {
  const Matrix<Scalar> w_router_ED = weights_.router_ED();
  const Matrix<Scalar> logits_TE = router_logits(x_TD, w_router_ED);
  ExpertSumBackward<Scalar> sum(x_TD, ids_TK, scores_from_logits(logits_TE, ids_TK, spec_), d_y_TD, spec_, position_);
  for (Dim e = 0; e < spec_.num_experts; ++e) sink(sum.needs(e) ? sum.add(e, weights_.expert(e)) : idle_gradient(e));

  Matrix<Scalar> d_logits_TE = scores_backward(logits_TE, ids_TK, sum.d_scores_TK(), spec_);
  LinearGradient<Scalar> of_router = linear_backward(x_TD, w_router_ED, d_logits_TE);
  return {sum.d_x_TD() + of_router.d_in, std::move(of_router.d_w), sum.d_scores_TK(), std::move(d_logits_TE)};
}

template <typename Scalar>
ExpertGradient<Scalar> MoeLayerBackward<Scalar>::idle_gradient(Dim expert) const {
  return {expert, 0, Matrix<Scalar>::Zero(spec_.gate_up_rows(), spec_.d_model), Matrix<Scalar>::Zero(spec_.d_model, spec_.d_ff)};
}

template LinearGradient<float> linear_backward(const Matrix<float>&, const Matrix<float>&, const Matrix<float>&);
template float swish_slope(float, const model::Activation&);
template Matrix<float> swiglu_backward(const Matrix<float>&, const Matrix<float>&, const model::Activation&);
template Matrix<float> softmax_backward(const Matrix<float>&, const Matrix<float>&);
template Matrix<float> renormalise_backward(const Matrix<float>&, const Matrix<float>&);
template Matrix<float> scores_backward(const Matrix<float>&, const IdMatrix&, const Matrix<float>&, const model::ModelSpec&);
template CombineGradient<float> combine_backward(std::span<const RoutedRow>, const Matrix<float>&, const Matrix<float>&,
                                                const Matrix<float>&);
template WeightingGradient<float> weighting_backward(std::span<const RoutedRow>, const Matrix<float>&, const Matrix<float>&,
                                                     const Matrix<float>&);
template class ExpertSumBackward<float>;
template class MoeLayerBackward<float>;
template LinearGradient<double> linear_backward(const Matrix<double>&, const Matrix<double>&, const Matrix<double>&);
template double swish_slope(double, const model::Activation&);
template Matrix<double> swiglu_backward(const Matrix<double>&, const Matrix<double>&, const model::Activation&);
template Matrix<double> softmax_backward(const Matrix<double>&, const Matrix<double>&);
template Matrix<double> renormalise_backward(const Matrix<double>&, const Matrix<double>&);
template Matrix<double> scores_backward(const Matrix<double>&, const IdMatrix&, const Matrix<double>&, const model::ModelSpec&);
template CombineGradient<double> combine_backward(std::span<const RoutedRow>, const Matrix<double>&, const Matrix<double>&,
                                                 const Matrix<double>&);
template WeightingGradient<double> weighting_backward(std::span<const RoutedRow>, const Matrix<double>&, const Matrix<double>&,
                                                     const Matrix<double>&);
template class ExpertSumBackward<double>;
template class MoeLayerBackward<double>;

}  // namespace moecheck::reference
