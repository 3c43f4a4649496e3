#include "parallel_impls/faults/fault.h"

namespace moecheck::parallel_impls {
namespace {

// Off by one at the end of the local range: the rank's last expert is taken for one that lives elsewhere.
RoutedSlots drop_last_expert(const RoutedSlots& global, const LocalExperts& local) {
  const at::Tensor is_local = (global.ids_TK >= local.first).logical_and(global.ids_TK < local.first + local.count - 1);
  return {global.scores_TK.masked_fill(is_local.logical_not(), 0.0),
          (global.ids_TK - local.first).masked_fill(is_local.logical_not(), local.count)};
}

MOECHECK_REGISTER_FAULT({
    {"last_expert_dropped", "mutation: off-by-one offset",
     "the last local expert is taken for a non-local one: its tokens reach no rank", "shard_routing",
     "impl=ep_allreduce model=mixtral mesh=ep=2 dtype=bf16 tokens=17",
     {{"token_conservation", "dispatch/rows_R3", 0, 5}, {"token_conservation", "dispatch/rows_R3", 1, 11}}},
    [](Seams& seams) { seams.shard_routing = drop_last_expert; },
});

}  // namespace
}  // namespace moecheck::parallel_impls
