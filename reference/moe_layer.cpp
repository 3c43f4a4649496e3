#include "reference/moe_layer.h"

#include <utility>

namespace moecheck::reference {

namespace {

template <typename Scalar>
Matrix<Scalar> ones_like(const Matrix<Scalar>& scores_TK) {
  return Matrix<Scalar>::Ones(scores_TK.rows(), scores_TK.cols());
}

}  // namespace

template <typename Scalar>
ExpertSum<Scalar>::ExpertSum(Matrix<Scalar> x_TD, const IdMatrix& ids_TK, Matrix<Scalar> scores_TK, const model::ModelSpec& spec,
                             model::ScorePosition position)
    : x_TD_(std::move(x_TD)),
      dispatch_(dispatch(ids_TK, spec.num_experts)),
      activation_(spec.activation),
      scores_before_TK_(position == model::ScorePosition::kBeforeExperts ? scores_TK : ones_like(scores_TK)),
      combine_(position == model::ScorePosition::kBeforeExperts ? ones_like(scores_TK) : scores_TK, x_TD_.cols()) {}

template <typename Scalar>
void ExpertSum<Scalar>::add(Dim expert, const ExpertWeights<Scalar>& weights) {
  const auto rows = dispatch_.rows_of(expert);
  combine_.add(rows, expert_output(weighted_rows(gather_tokens(x_TD_, rows), rows, scores_before_TK_), weights, activation_));
}

template <typename Scalar>
LayerOutput<Scalar> MoeLayer<Scalar>::forward(const Matrix<Scalar>& x_TD) const {
  Matrix<Scalar> logits_TE = router_logits(x_TD, weights_.router_ED());
  IdMatrix ids_TK = choose_experts(logits_TE, spec_);
  return finish(x_TD, {std::move(logits_TE), std::move(ids_TK), {}, {}});
}

template <typename Scalar>
LayerOutput<Scalar> MoeLayer<Scalar>::forward(const Matrix<Scalar>& x_TD, const IdMatrix& ids_TK) const {
  return finish(x_TD, {router_logits(x_TD, weights_.router_ED()), ids_TK, {}, {}});
}

template <typename Scalar>
LayerOutput<Scalar> MoeLayer<Scalar>::finish(const Matrix<Scalar>& x_TD, LayerOutput<Scalar> routed) const {
  routed.scores_TK = scores_from_logits(routed.logits_TE, routed.ids_TK, spec_);
  ExpertSum<Scalar> sum(x_TD, routed.ids_TK, routed.scores_TK, spec_, position_);
  for (Dim e = 0; e < spec_.num_experts; ++e)
    if (sum.needs(e)) sum.add(e, weights_.expert(e));
  routed.y_TD = sum.y_TD();
  return routed;
}

template class ExpertSum<float>;
template class ExpertSum<double>;
template class MoeLayer<float>;
template class MoeLayer<double>;

}  // namespace moecheck::reference
