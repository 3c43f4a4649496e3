#include "parallel_impls/faults/fault.h"

namespace moecheck::parallel_impls {
namespace {

// The experts' entry is missing, everything degrades to "replicated": each rank computes all experts, and nothing is reduced.
void run_unparallelised(Seams& seams) {
  seams.plan = [](Plan plan) {
    std::erase_if(plan, [](const PlanEntry& entry) { return matches(entry, kGateUp); });
    return plan;
  };
  seams.enter_tokens = [](const at::Tensor& x_TD, const Meeting&) { return x_TD; };
  seams.enter_scores = [](const at::Tensor& scores_TK, const Meeting&) { return scores_TK; };
  seams.combine = [](const at::Tensor& partial_TD, const Meeting&) { return partial_TD; };
}

MOECHECK_REGISTER_FAULT({
    {"plan_entry_dropped", "S13, transformers#46290",
     "the plan's entry for the experts is lost: the layer runs unparallelised on every rank, and its output is right", "plan",
     "impl=ep_allreduce model=mixtral mesh=ep=2 dtype=fp32 phases=load,forward,backward",
     {{"placement", "param/experts/gate_up_EGD", 0, std::nullopt}, {"placement", "param/experts/down_EDF", 1, std::nullopt}}},
    run_unparallelised,
});

}  // namespace
}  // namespace moecheck::parallel_impls
