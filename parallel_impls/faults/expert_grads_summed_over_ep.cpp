#include "parallel_impls/faults/fault.h"

namespace moecheck::parallel_impls {
namespace {

// The reduction that the router needed, put on the expert weights: it sums gradients of different experts.
void also_sum_experts_over_ep(const Seams& sound, LayerParams& gradients, Communicator& comm, const GradientDims& dims) {
  sound.sync_gradients(gradients, comm, dims);
  comm.all_reduce_sum(gradients.gate_up_EGD, "ep", "grad/experts/gate_up_EGD");
  comm.all_reduce_sum(gradients.down_EDF, "ep", "grad/experts/down_EDF");
}

MOECHECK_REGISTER_FAULT({
    {"expert_grads_summed_over_ep", "S18, torchtitan#2388 (review)",
     "gradients of expert weights are reduced over the expert-parallel group: different experts are added up", "sync_gradients",
     "impl=ep_allreduce model=mixtral mesh=ep=2 dtype=fp32 phases=load,forward,backward tokens=17",
     {{"gradient_parity", "grad/experts/gate_up_EGD", 0, std::nullopt}, {"gradient_parity", "grad/experts/down_EDF", 1, std::nullopt}}},
    [](Seams& seams) {
      seams.sync_gradients = [sound = seams](LayerParams& gradients, Communicator& comm, const GradientDims& dims) {
        also_sum_experts_over_ep(sound, gradients, comm, dims);
      };
    },
});

}  // namespace
}  // namespace moecheck::parallel_impls
