#include "parallel_impls/layer/router.h"

namespace moecheck::parallel_impls {

RouterOutput route(const at::Tensor& x_TD, const at::Tensor& router_ED, const model::ModelSpec& spec, const Seams& seams,
                  Tapper& tapper) {
  const at::Tensor logits_TE = at::linear(x_TD, router_ED);
  at::Tensor scores_TK;
  at::Tensor ids_TK;
  if (spec.score_function == model::ScoreFunction::kSoftmaxAfterTopk) {
    std::tie(scores_TK, ids_TK) = at::topk(logits_TE, spec.top_k, -1);
    scores_TK = at::softmax(scores_TK, -1, at::kFloat);
  } else {
    const bool is_sigmoid = spec.score_function == model::ScoreFunction::kSigmoid;
    const at::Tensor weights_TE = is_sigmoid ? at::sigmoid(logits_TE.to(at::kFloat)) : seams.probabilities(logits_TE);
    std::tie(scores_TK, ids_TK) = at::topk(weights_TE, spec.top_k, -1);
    if (spec.renormalise) scores_TK = scores_TK / scores_TK.sum(-1, /*keepdim=*/true);
  }
  if (spec.routed_scale != 1) scores_TK = scores_TK * spec.routed_scale;
  const RoutedSlots slots{scores_TK.to(x_TD.scalar_type()), ids_TK};
  tapper.tap("router/logits_TE", logits_TE);
  tapper.tap("router/scores_TK", slots.scores_TK);
  tapper.tap("router/ids_TK", slots.ids_TK);
  return {logits_TE, slots};
}

}  // namespace moecheck::parallel_impls
