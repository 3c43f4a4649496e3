// Tensor parallelism of the experts: each rank a piece of gate, the same piece of up and of down's columns of every expert;
// partial outputs are all-reduced.
#include "parallel_impls/layer/replicated_tokens_layer.h"

namespace moecheck::parallel_impls {
namespace {

MOECHECK_REGISTER_IMPLEMENTATION({
    "tp_sharded",
    "tensor parallelism: packed gate_up column-wise with a strided shard, down row-wise, all-reduce over tp",
    {"dp", "tp"},
    [](LayerContext context) { return make_replicated_tokens_layer(std::move(context), tensor_parallel_plan(), "tp"); },
});

}  // namespace
}  // namespace moecheck::parallel_impls
