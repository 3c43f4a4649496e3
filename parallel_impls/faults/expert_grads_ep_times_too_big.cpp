#include "parallel_impls/faults/fault.h"

namespace moecheck::parallel_impls {
namespace {

// Tokens of all expert-parallel ranks are in an expert's gradient already; divided like the others, but by the smaller group of the
// ranks that share the expert, it is ep times what the rest is.
void divide_by_the_smaller_group(const Seams& sound, LayerParams& gradients, Communicator& comm, const GradientDims& dims) {
  sound.sync_gradients(gradients, comm, dims);
  gradients.gate_up_EGD.mul_(comm.mesh().size("ep"));
  gradients.down_EDF.mul_(comm.mesh().size("ep"));
}

MOECHECK_REGISTER_FAULT({
    {"expert_grads_ep_times_too_big", "G08, pytorch#160285, DeepSpeed#5618 and Megatron-LM#5956",
     "gradients of experts are divided by the ranks that share an expert, all others by all ranks: ep times too big beside them", "sync_gradients",
     "impl=ep_alltoall model=mixtral mesh=ep=2 dtype=bf16 tokens=7,5 tokens_over=dp,ep phases=load,forward,backward",
     {{"gradient_parity", "grad/experts/gate_up_EGD", 0, std::nullopt}, {"gradient_parity", "grad/experts/down_EDF", 1, std::nullopt}, {"euler_identity", "grad/scores_TK", std::nullopt, std::nullopt}}},
    [](Seams& seams) {
      seams.sync_gradients = [sound = seams](LayerParams& gradients, Communicator& comm, const GradientDims& dims) {
        divide_by_the_smaller_group(sound, gradients, comm, dims);
      };
    },
});

}  // namespace
}  // namespace moecheck::parallel_impls
