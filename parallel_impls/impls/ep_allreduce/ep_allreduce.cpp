// Expert parallelism as transformers does it: every rank routes all tokens, remaps scores and ids to its own experts (sentinel
// ids and zero scores for the others), computes its share, and the shares are all-reduced.
#include "parallel_impls/layer/replicated_tokens_layer.h"

namespace moecheck::parallel_impls {
namespace {

MOECHECK_REGISTER_IMPLEMENTATION({
    "ep_allreduce",
    "expert parallelism: router hook with sentinel ids, local experts, all-reduce over ep",
    {"dp", "ep"},
    [](LayerContext context) { return make_replicated_tokens_layer(std::move(context), expert_parallel_plan(), "ep"); },
});

}  // namespace
}  // namespace moecheck::parallel_impls
