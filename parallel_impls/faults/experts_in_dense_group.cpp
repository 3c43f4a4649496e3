#include "parallel_impls/faults/fault.h"

namespace moecheck::parallel_impls {
namespace {

MOECHECK_REGISTER_FAULT({
    {"experts_in_dense_group", "G09, Megatron-LM#1628 and #5916",
     "expert parameters are tagged as dense: their gradients are reduced over the data-parallel group of the dense ones, across different experts",
     "sync_gradients", "impl=ep_alltoall model=mixtral mesh=dp=2,ep=2 dtype=fp32 tokens=7,5 tokens_over=dp,ep phases=load,forward,backward",
     {{"gradient_parity", "grad/experts/gate_up_EGD", 0, std::nullopt}, {"gradient_parity", "grad/experts/down_EDF", 3, std::nullopt}, {"comm_log", "grad/experts/down_EDF", 0, std::nullopt}}},
    [](Seams& seams) {
      seams.sync_gradients = [sound = seams.sync_gradients](LayerParams& gradients, Communicator& comm, const GradientDims& dims) {
        sound(gradients, comm, {dims.dense, dims.dense});
      };
    },
});

}  // namespace
}  // namespace moecheck::parallel_impls
