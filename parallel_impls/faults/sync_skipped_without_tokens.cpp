#include "parallel_impls/faults/fault.h"

namespace moecheck::parallel_impls {
namespace {

// Nothing arrived, so there is nothing to reduce: a rank decides by its own batch whether it takes part.
void sync_if_any_gradient(const Seams& sound, LayerParams& gradients, Communicator& comm, const GradientDims& dims) {
  if (gradients.router_ED.count_nonzero().item<model::Dim>() > 0) sound.sync_gradients(gradients, comm, dims);
}

MOECHECK_REGISTER_FAULT({
    {"sync_skipped_without_tokens", "D16, TensorRT-LLM#6173; M10, DeepSpeed#5066",
     "a rank without tokens skips the reduction of gradients that the others wait in", "sync_gradients",
     "impl=data_parallel model=mixtral mesh=dp=2 dtype=fp32 tokens=6,0 phases=load,forward,backward",
     {{"comm_log", "grad/router/w_ED", 1, std::nullopt}}},
    [](Seams& seams) {
      seams.sync_gradients = [sound = seams](LayerParams& gradients, Communicator& comm, const GradientDims& dims) {
        sync_if_any_gradient(sound, gradients, comm, dims);
      };
    },
});

}  // namespace
}  // namespace moecheck::parallel_impls
