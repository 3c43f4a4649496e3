#include "parallel_impls/faults/fault.h"

namespace moecheck::parallel_impls {
namespace {

MOECHECK_REGISTER_FAULT({
    {"router_grad_partial", "S16 and G04, transformers#48205; S17, torchtitan#2387",
     "routing weights enter the local experts without a backward reduction: each rank trains its router on its own experts only",
     "enter_scores", "impl=ep_allreduce model=mixtral mesh=ep=2 dtype=bf16 phases=load,forward,backward",
     {{"gradient_parity", "grad/scores_TK", 0, std::nullopt}, {"replica_agreement", "grad/router/w_ED", 1, std::nullopt}}},
    [](Seams& seams) {
      seams.enter_scores = [](const at::Tensor& scores_TK, const Meeting&) { return scores_TK; };
    },
});

}  // namespace
}  // namespace moecheck::parallel_impls
