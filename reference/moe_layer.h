// The whole layer, forward, in one process: route, dispatch, experts, combine.
#pragma once

#include "harness/model/problem.h"
#include "reference/combine.h"
#include "reference/router.h"
#include "reference/weights.h"

namespace moecheck::reference {

// The layer behind the router, taking experts one after another in any order, each at most once.
template <typename Scalar>
class ExpertSum {
 public:
  // Requires: 0 <= id < E.
  ExpertSum(Matrix<Scalar> x_TD, const IdMatrix& ids_TK, Matrix<Scalar> scores_TK, const model::ModelSpec& spec,
            model::ScorePosition position = model::ScorePosition::kAfterExperts);

  bool needs(Dim expert) const { return !dispatch_.rows_of(expert).empty(); }
  void add(Dim expert, const ExpertWeights<Scalar>& weights);
  const Matrix<Scalar>& y_TD() const { return combine_.y_TD(); }

 private:
  Matrix<Scalar> x_TD_;
  Dispatch dispatch_;
  model::Activation activation_;
  Matrix<Scalar> scores_before_TK_;  // what a token is weighted with on its way into the experts
  Combine<Scalar> combine_;
};

template <typename Scalar>
struct LayerOutput {
  Matrix<Scalar> logits_TE;
  IdMatrix ids_TK;
  Matrix<Scalar> scores_TK;
  Matrix<Scalar> y_TD;
};

// y(x) = sum over i in TopK of p_i(x) E_i(x): Switch Transformers, equation 2; or of E_i(p_i(x) x), where the score goes before
// the experts, as in Llama 4 (transformers, Llama4TextMoe).
// Holds the weights of one expert at a time; experts without tokens are not asked for.
template <typename Scalar>
class MoeLayer {
 public:
  // Requires: `weights` outlives the layer.
  MoeLayer(const model::ModelSpec& spec, Weights<Scalar>& weights, model::ScorePosition position = model::ScorePosition::kAfterExperts)
      : spec_(spec), weights_(weights), position_(position) {}

  LayerOutput<Scalar> forward(const Matrix<Scalar>& x_TD) const;
  // With someone else's choice of experts, but its own logits and scores.
  LayerOutput<Scalar> forward(const Matrix<Scalar>& x_TD, const IdMatrix& ids_TK) const;

 private:
  LayerOutput<Scalar> finish(const Matrix<Scalar>& x_TD, LayerOutput<Scalar> routed) const;

  model::ModelSpec spec_;
  Weights<Scalar>& weights_;
  model::ScorePosition position_;
};

}  // namespace moecheck::reference
