#include "parallel_impls/faults/fault.h"

namespace moecheck::parallel_impls {
namespace {

MOECHECK_REGISTER_FAULT({
    {"gather_without_gradient", "G06, NeMo Automodel#2995 (2)",
     "routing weights of the gathered tokens go through a plain all-gather: the router is detached from the loss", "gather_scores",
     "impl=ep_allreduce model=mixtral mesh=ep=2 dtype=bf16 tokens=7,5 tokens_over=dp,ep phases=load,forward,backward",
     {{"gradient_parity", "grad/scores_TK", 0, std::nullopt}, {"gradient_parity", "grad/scores_TK", 1, std::nullopt}}},
    [](Seams& seams) {
      seams.gather_scores = [](const at::Tensor& scores_TK, const Rows& rows, const Meeting& where) {
        return where.comm->all_gather(scores_TK.detach().contiguous(), rows, where.dims, where.site);
      };
    },
});

}  // namespace
}  // namespace moecheck::parallel_impls
