// Tensor parallelism of the experts: each rank a piece of gate, the same piece of up and of down's columns of every expert;
// partial outputs are all-reduced. With tokens sharded over tp (sequence parallelism) they are gathered first, and the sums
// reduce-scattered.
#include "parallel_impls/layer/moe_layer.h"
#include "parallel_impls/layer/supported.h"

namespace moecheck::parallel_impls {
namespace {

std::unique_ptr<Layer> make(const LayerContext& context) {
  require_tokens_over(context.one, {"tp"});
  require_own_tp(context.one);
  return make_moe_layer(context, tensor_parallel_plan(), make_gathering_dispatcher(context, "tp"));
}

MOECHECK_REGISTER_IMPLEMENTATION({
    "tp_sharded",
    "tensor parallelism: packed gate_up column-wise with a strided shard, down row-wise, all-reduce over tp (sequence parallel with sharded tokens)",
    {"dp", "tp"},
    make,
});

}  // namespace
}  // namespace moecheck::parallel_impls
