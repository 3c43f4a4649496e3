// Plain data parallelism: every rank holds the whole layer and tokens of its own; gradients are all-reduced.
#include "parallel_impls/layer/moe_layer.h"
#include "parallel_impls/layer/supported.h"

namespace moecheck::parallel_impls {
namespace {

std::unique_ptr<Layer> make(const LayerContext& context) {
  return make_moe_layer(context, replicated_plan(), make_gathering_dispatcher(context, ""));
}

MOECHECK_REGISTER_IMPLEMENTATION({"data_parallel", "data parallelism: the whole layer on every rank, gradients all-reduced over dp", {"dp"}, make});

}  // namespace
}  // namespace moecheck::parallel_impls
