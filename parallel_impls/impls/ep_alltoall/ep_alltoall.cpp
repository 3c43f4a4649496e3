// Expert parallelism with token exchange: rows are permuted by expert, sent to the ranks that hold them with uneven splits,
// computed there in groups, sent back and combined. With tokens sharded over ep each rank sends its own; with tokens replicated
// over ep each sends its slice of them.
#include "parallel_impls/layer/moe_layer.h"
#include "parallel_impls/layer/supported.h"

namespace moecheck::parallel_impls {
namespace {

std::unique_ptr<Layer> make(const LayerContext& context) {
  require_tokens_over(context.one, {"ep"});
  return make_moe_layer(context, expert_parallel_plan(), make_all_to_all_dispatcher(context));
}

MOECHECK_REGISTER_IMPLEMENTATION({
    "ep_alltoall",
    "expert parallelism: permute, all-to-all with uneven splits over ep, local experts, all-to-all back, combine",
    {"dp", "ep"},
    make,
});

}  // namespace
}  // namespace moecheck::parallel_impls
