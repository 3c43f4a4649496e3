#include "parallel_impls/comm/autograd_collectives.h"
#include "parallel_impls/faults/fault.h"

namespace moecheck::parallel_impls {
namespace {

MOECHECK_REGISTER_FAULT({
    {"router_grad_reduced_twice", "S16, transformers#46290",
     "the gradient of the routing weights is all-reduced where it is whole already: ep times too big", "enter_scores",
     "impl=ep_allreduce model=mixtral mesh=ep=3 dtype=fp32 phases=load,forward,backward",
     {{"gradient_parity", "grad/scores_TK", 0, std::nullopt}, {"gradient_parity", "grad/scores_TK", 2, std::nullopt}}},
    [](Seams& seams) {
      seams.enter_scores = [](const at::Tensor& scores_TK, const Meeting& where) {
        return copy_to_group(copy_to_group(scores_TK, where), where);
      };
    },
});

}  // namespace
}  // namespace moecheck::parallel_impls
