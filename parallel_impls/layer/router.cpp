#include "parallel_impls/layer/router.h"

namespace moecheck::parallel_impls {

RouterOutput route(const at::Tensor& x_TD, const at::Tensor& router_ED, const model::ModelSpec& spec, const Seams& seams,
                  Tapper& tapper) {
  const at::Tensor logits_TE = at::linear(x_TD, router_ED);
  at::Tensor scores_TK;
  at::Tensor ids_TK;
  if (spec.softmax == model::SoftmaxOrder::kBeforeTopk) {
    std::tie(scores_TK, ids_TK) = at::topk(seams.probabilities(logits_TE), spec.top_k, -1);
    if (spec.renormalise) scores_TK = scores_TK / scores_TK.sum(-1, /*keepdim=*/true);
  } else {
    std::tie(scores_TK, ids_TK) = at::topk(logits_TE, spec.top_k, -1);
    scores_TK = at::softmax(scores_TK, -1, at::kFloat);
  }
  const RoutedSlots slots{scores_TK.to(x_TD.scalar_type()), ids_TK};
  tapper.tap("router/logits_TE", logits_TE);
  tapper.tap("router/scores_TK", slots.scores_TK);
  tapper.tap("router/ids_TK", slots.ids_TK);
  return {logits_TE, slots};
}

}  // namespace moecheck::parallel_impls
