#include "parallel_impls/faults/fault.h"

namespace moecheck::parallel_impls {
namespace {

void average(const Seams& sound, LayerParams& gradients, Communicator& comm, const GradientDims& dims) {
  sound.sync_gradients(gradients, comm, dims);
  for (const ParamInfo& param : kTrainable) (gradients.*param.member).div_(comm.mesh().size("dp"));
}

MOECHECK_REGISTER_FAULT({
    {"dp_gradients_averaged", "G08, DeepSpeed#5618 and Megatron-LM#5956: a wrong divisor",
     "gradients are averaged over data-parallel ranks though the loss is a sum: 1/dp of what they should be", "sync_gradients",
     "impl=tp_sharded model=mixtral mesh=dp=2,tp=2 dtype=fp32 phases=load,forward,backward tokens=7,5",
     {{"gradient_parity", "grad/router/w_ED", 0, std::nullopt}, {"gradient_parity", "grad/experts/down_EDF", 3, std::nullopt}, {"euler_identity", "grad/scores_TK", std::nullopt, std::nullopt}}},
    [](Seams& seams) {
      seams.sync_gradients = [sound = seams](LayerParams& gradients, Communicator& comm, const GradientDims& dims) { average(sound, gradients, comm, dims); };
    },
});

}  // namespace
}  // namespace moecheck::parallel_impls
