#include "parallel_impls/faults/fault.h"

namespace moecheck::parallel_impls {
namespace {

// That a gradient is partial is said only where expert parallelism is on.
at::Tensor enter_partially(const at::Tensor& tensor, const Meeting& where) {
  return where.comm->mesh().size("ep") > 1 ? copy_to_group(tensor, where) : tensor;
}

MOECHECK_REGISTER_FAULT({
    {"ep_off_drops_layout", "G03, torchtitan#4054",
     "without expert parallelism the gradients of tensor-parallel experts' inputs pass for complete", "enter_tokens, enter_scores",
     "impl=ep_tp model=qwen3_moe mesh=tp=2 dtype=fp32 phases=load,forward,backward",
     {{"gradient_parity", "grad/scores_TK", 0, std::nullopt}, {"gradient_parity", "grad/x_TD", 1, std::nullopt}, {"replica_agreement", "grad/router/w_ED", 1, std::nullopt}}},
    [](Seams& seams) {
      seams.enter_tokens = enter_partially;
      seams.enter_scores = enter_partially;
    },
});

}  // namespace
}  // namespace moecheck::parallel_impls
