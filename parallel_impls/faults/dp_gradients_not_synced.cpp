#include "parallel_impls/faults/fault.h"

namespace moecheck::parallel_impls {
namespace {

MOECHECK_REGISTER_FAULT({
    {"dp_gradients_not_synced", "mutation: a collective dropped",
     "gradients are not reduced over data-parallel ranks: replicas part at the first step", "sync_gradients",
     "impl=ep_allreduce model=qwen3_moe mesh=dp=2,ep=2 dtype=bf16 phases=load,forward,backward tokens=7,5",
     {{"gradient_parity", "grad/experts/gate_up_EGD", 0, std::nullopt}, {"replica_agreement", "grad/router/w_ED", 2, std::nullopt}}},
    [](Seams& seams) { seams.sync_gradients = [](LayerParams&, Communicator&, const GradientDims&) {}; },
});

}  // namespace
}  // namespace moecheck::parallel_impls
