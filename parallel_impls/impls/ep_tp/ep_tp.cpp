// Expert parallelism beside tensor parallelism, as torchtitan has it. expert_tp=tp: tp cuts every expert, tokens are exchanged
// over ep, partial sums reduced over tp. expert_tp=one: tp is lent to expert parallelism, experts are spread over ep and tp
// together, and each tp rank sends its slice of the tokens that tp replicates.
#include "parallel_impls/layer/moe_layer.h"
#include "parallel_impls/layer/supported.h"

namespace moecheck::parallel_impls {
namespace {

std::unique_ptr<Layer> make(const LayerContext& context) {
  if (context.one.problem.expert_tp == model::ExpertTp::kOne) {
    require_tokens_over(context.one, {"ep", "tp"});
  } else {
    // Rows of other tokens would have to be gathered over tp before the experts.
    require_tokens_over(context.one, {"ep"});
  }
  return make_moe_layer(context, expert_and_tensor_parallel_plan(context.one.problem.expert_tp), make_all_to_all_dispatcher(context));
}

MOECHECK_REGISTER_IMPLEMENTATION({
    "ep_tp",
    "expert and tensor parallelism: all-to-all over ep with experts cut by tp (expert_tp=tp), or over ep and tp together (expert_tp=one)",
    {"dp", "ep", "tp"},
    make,
});

}  // namespace
}  // namespace moecheck::parallel_impls
