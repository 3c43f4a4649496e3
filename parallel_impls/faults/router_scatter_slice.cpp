#include <algorithm>

#include "parallel_impls/faults/fault.h"

namespace moecheck::parallel_impls {
namespace {

// Scores are scattered to (T, E) and the local columns cut out: (T, e) beside ids of (T, K). Consumers flatten both.
RoutedSlots scatter_and_slice(const RoutedSlots& global, const LocalExperts& local) {
  const model::Dim highest = global.ids_TK.numel() > 0 ? global.ids_TK.max().item<model::Dim>() + 1 : 0;
  const model::Dim width = std::max(highest, local.first + local.count);  // E, as far as it matters here
  const at::Tensor dense_TE = at::zeros({global.scores_TK.size(0), width}, global.scores_TK.options())
                                  .scatter(1, global.ids_TK, global.scores_TK);
  const at::Tensor is_local = (global.ids_TK >= local.first).logical_and(global.ids_TK < local.first + local.count);
  return {dense_TE.narrow(1, local.first, local.count).contiguous(),
          (global.ids_TK - local.first).masked_fill(is_local.logical_not(), local.count)};
}

MOECHECK_REGISTER_FAULT({
    {"router_scatter_slice", "S01, transformers#45473 (1)",
     "router scores scattered to (T, E) and cut to (T, e) while ids stay (T, K): each weight meets a wrong expert", "shard_routing",
     "impl=ep_allreduce model=mixtral mesh=ep=2 dtype=fp32",
     {{"shape_pairing", "dispatch/scores_TK", 0, 3}, {"shape_pairing", "dispatch/scores_TK", 1, 9}, {"stage_diff", "combine/partial_TD", 1, std::nullopt}}},
    [](Seams& seams) { seams.shard_routing = scatter_and_slice; },
});

}  // namespace
}  // namespace moecheck::parallel_impls
