#include "reference/router.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace moecheck::reference {
namespace {

// A strict weak order, NaN included.
template <typename Scalar>
bool is_greater(Scalar a, Scalar b) {
  if (std::isnan(a) || std::isnan(b)) return std::isnan(a) && !std::isnan(b);
  return a > b;
}

}  // namespace

template <typename Scalar>
Matrix<Scalar> router_logits(const Matrix<Scalar>& x_TD, const Matrix<Scalar>& w_router_ED) {
  return x_TD * w_router_ED.transpose();
}

template <typename Scalar>
Matrix<Scalar> softmax(const Matrix<Scalar>& logits) {
  Matrix<Scalar> p(logits.rows(), logits.cols());
  for (Dim t = 0; t < logits.rows(); ++t) {
    // The maximum cancels in the quotient and keeps exp() from overflowing.
    const Scalar largest = logits.row(t).maxCoeff();
    p.row(t) = logits.row(t).unaryExpr([&](Scalar h) { return std::exp(h - largest); });
    p.row(t) /= p.row(t).sum();
  }
  return p;
}

template <typename Scalar>
Scalar sigmoid(Scalar h) {
  return Scalar{1} / (Scalar{1} + std::exp(-h));
}

template <typename Scalar>
Matrix<Scalar> sigmoid(const Matrix<Scalar>& logits) {
  return logits.unaryExpr([](Scalar h) { return sigmoid(h); });
}

template <typename Scalar>
IdMatrix top_k(const Matrix<Scalar>& values_TE, Dim k) {
  IdMatrix ids_TK(values_TE.rows(), k);
  std::vector<Dim> order(static_cast<std::size_t>(values_TE.cols()));
  for (Dim t = 0; t < values_TE.rows(); ++t) {
    std::iota(order.begin(), order.end(), Dim{0});
    std::stable_sort(order.begin(), order.end(), [&](Dim a, Dim b) { return is_greater(values_TE(t, a), values_TE(t, b)); });
    for (Dim j = 0; j < k; ++j) ids_TK(t, j) = order[static_cast<std::size_t>(j)];
  }
  return ids_TK;
}

template <typename Scalar>
Matrix<Scalar> gather_columns(const Matrix<Scalar>& values_TE, const IdMatrix& ids_TK) {
  Matrix<Scalar> chosen_TK(ids_TK.rows(), ids_TK.cols());
  for (Dim t = 0; t < ids_TK.rows(); ++t)
    for (Dim k = 0; k < ids_TK.cols(); ++k) {
      MOECHECK_REQUIRE(ids_TK(t, k) >= 0 && ids_TK(t, k) < values_TE.cols());
      chosen_TK(t, k) = values_TE(t, ids_TK(t, k));
    }
  return chosen_TK;
}

template <typename Scalar>
IdMatrix choose_experts(const Matrix<Scalar>& logits_TE, const model::ModelSpec& spec) {
  if (spec.score_function == model::ScoreFunction::kSoftmaxBeforeTopk) return top_k(softmax(logits_TE), spec.top_k);
  return top_k(logits_TE, spec.top_k);
}

template <typename Scalar>
Matrix<Scalar> scores_from_logits(const Matrix<Scalar>& logits_TE, const IdMatrix& ids_TK, const model::ModelSpec& spec) {
  const auto scale = static_cast<Scalar>(spec.routed_scale);
  if (spec.score_function == model::ScoreFunction::kSoftmaxAfterTopk) return scale * softmax(gather_columns(logits_TE, ids_TK));
  const bool is_sigmoid = spec.score_function == model::ScoreFunction::kSigmoid;
  Matrix<Scalar> scores_TK = gather_columns(is_sigmoid ? sigmoid(logits_TE) : softmax(logits_TE), ids_TK);
  if (spec.renormalise)
    for (Dim t = 0; t < scores_TK.rows(); ++t) scores_TK.row(t) /= scores_TK.row(t).sum();
  return scale * scores_TK;
}

template Matrix<float> router_logits(const Matrix<float>&, const Matrix<float>&);
template Matrix<float> softmax(const Matrix<float>&);
template float sigmoid(float);
template Matrix<float> sigmoid(const Matrix<float>&);
template IdMatrix top_k(const Matrix<float>&, Dim);
template Matrix<float> gather_columns(const Matrix<float>&, const IdMatrix&);
template IdMatrix choose_experts(const Matrix<float>&, const model::ModelSpec&);
template Matrix<float> scores_from_logits(const Matrix<float>&, const IdMatrix&, const model::ModelSpec&);
template Matrix<double> router_logits(const Matrix<double>&, const Matrix<double>&);
template Matrix<double> softmax(const Matrix<double>&);
template double sigmoid(double);
template Matrix<double> sigmoid(const Matrix<double>&);
template IdMatrix top_k(const Matrix<double>&, Dim);
template Matrix<double> gather_columns(const Matrix<double>&, const IdMatrix&);
template IdMatrix choose_experts(const Matrix<double>&, const model::ModelSpec&);
template Matrix<double> scores_from_logits(const Matrix<double>&, const IdMatrix&, const model::ModelSpec&);

}  // namespace moecheck::reference
