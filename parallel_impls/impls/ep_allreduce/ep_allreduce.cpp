// Expert parallelism as transformers does it: every rank routes all tokens, remaps scores and ids to its own experts (sentinel
// ids and zero scores for the others), computes its share, and the shares are all-reduced. With tokens sharded over ep they are
// gathered first, and the sums reduce-scattered.
#include "parallel_impls/layer/moe_layer.h"
#include "parallel_impls/layer/supported.h"

namespace moecheck::parallel_impls {
namespace {

std::unique_ptr<Layer> make(const LayerContext& context) {
  require_tokens_over(context.one, {"ep"});
  return make_moe_layer(context, expert_parallel_plan(), make_gathering_dispatcher(context, "ep"));
}

MOECHECK_REGISTER_IMPLEMENTATION({
    "ep_allreduce",
    "expert parallelism: router hook with sentinel ids, local experts, all-reduce over ep (all-gather and reduce-scatter of sharded tokens)",
    {"dp", "ep"},
    make,
});

}  // namespace
}  // namespace moecheck::parallel_impls
