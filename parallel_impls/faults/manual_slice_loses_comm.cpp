#include "parallel_impls/faults/fault.h"

namespace moecheck::parallel_impls {
namespace {

MOECHECK_REGISTER_FAULT({
    {"manual_slice_loses_comm", "S19, torchtitan#2388 (review) and #2416",
     "tokens and scores that tp replicates are sliced by hand for its ranks: their gradients stay slices; only with expert_tp=one", "enter_slice",
     "impl=ep_tp model=mixtral mesh=tp=2 dtype=fp32 expert_tp=one phases=load,forward,backward",
     {{"gradient_parity", "grad/scores_TK", 0, std::nullopt}, {"gradient_parity", "grad/x_TD", 1, std::nullopt}, {"replica_agreement", "grad/router/w_ED", 1, std::nullopt}}},
    [](Seams& seams) {
      seams.enter_slice = [](const at::Tensor& whole, const Meeting&) { return whole; };
    },
});

}  // namespace
}  // namespace moecheck::parallel_impls
