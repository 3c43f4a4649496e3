#include "parallel_impls/faults/fault.h"

namespace moecheck::parallel_impls {
namespace {

MOECHECK_REGISTER_FAULT({
    {"router_replica_drift", "S17, torchtitan#2387",
     "the router's output is made local under tensor parallelism without saying that its gradients are partial: replicas part at the first step",
     "enter_scores", "impl=tp_sharded model=mixtral mesh=tp=2 dtype=fp32 steps=2 phases=load,forward,backward,step",
     {{"replica_agreement", "optim/param/router/w_ED", 1, std::nullopt}, {"gradient_parity", "grad/scores_TK", 0, std::nullopt}, {"comm_log", "grad/scores_TK", 0, std::nullopt}}},
    [](Seams& seams) {
      seams.enter_scores = [](const at::Tensor& scores_TK, const Meeting&) { return scores_TK; };
    },
});

}  // namespace
}  // namespace moecheck::parallel_impls
