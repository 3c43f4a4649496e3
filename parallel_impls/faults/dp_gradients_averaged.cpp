#include "parallel_impls/faults/fault.h"

namespace moecheck::parallel_impls {
namespace {

void average(LayerParams& gradients, Communicator& comm) {
  for (at::Tensor* gradient : {&gradients.router_ED, &gradients.gate_up_EGD, &gradients.down_EDF}) {
    comm.all_reduce_sum(*gradient, "dp", "grad/param");
    gradient->div_(comm.mesh().size("dp"));
  }
}

MOECHECK_REGISTER_FAULT({
    {"dp_gradients_averaged", "G08, DeepSpeed#5618 and Megatron-LM#5956: a wrong divisor",
     "gradients are averaged over data-parallel ranks though the loss is a sum: 1/dp of what they should be", "sync_gradients",
     "impl=tp_sharded model=mixtral mesh=dp=2,tp=2 dtype=fp32 phases=load,forward,backward tokens=7,5",
     {{"gradient_parity", "grad/router/w_ED", 0, std::nullopt}, {"gradient_parity", "grad/experts/down_EDF", 3, std::nullopt}}},
    [](Seams& seams) { seams.sync_gradients = average; },
});

}  // namespace
}  // namespace moecheck::parallel_impls
