// Expert parallelism beside fully sharded data parallelism: experts lie on their ep mesh and are sharded over fsdp within it,
// everything else over all ranks that hold different tokens; parameters are gathered on use, gradients reduce-scattered.
#include "parallel_impls/layer/moe_layer.h"
#include "parallel_impls/layer/supported.h"

namespace moecheck::parallel_impls {
namespace {

std::unique_ptr<Layer> make(const LayerContext& context) {
  const model::Problem& problem = context.one.problem;
  require_tokens_over(context.one, {"ep"});
  // Ranks with the same tokens have the same gradients: their sum would be ep times too big.
  if (problem.mesh.size("ep") > 1 && !problem.shards_tokens("ep"))
    throw Unsupported("ep_fsdp shards parameters over all ranks and needs tokens that are sharded over ep too: tokens_over=dp,fsdp,ep");
  return make_moe_layer(context, expert_parallel_and_fsdp_plan(), make_all_to_all_dispatcher(context));
}

MOECHECK_REGISTER_IMPLEMENTATION({
    "ep_fsdp",
    "expert parallelism with fully sharded data parallelism: parameters gathered on use, gradients reduce-scattered, tokens exchanged over ep",
    {"dp", "fsdp", "ep"},
    make,
});

}  // namespace
}  // namespace moecheck::parallel_impls
