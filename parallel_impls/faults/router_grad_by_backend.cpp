#include "parallel_impls/faults/fault.h"

namespace moecheck::parallel_impls {
namespace {

// One experts implementation reads the routing weights as constants.
const ExpertsBackend* detached_batched_mm(std::string_view name) {
  static const ExpertsBackend detached{"batched_mm", [](ExpertsInput in) {
                                         in.slots.scores_TK = in.slots.scores_TK.detach();
                                         return find_registered_backend("batched_mm")->forward(in);
                                       }};
  return name == detached.name ? &detached : find_registered_backend(name);
}

MOECHECK_REGISTER_FAULT({
    {"router_grad_by_backend", "G05, transformers#48687",
     "one experts implementation does not pass the gradient of the routing weights on; the loss is right", "experts backend",
     "impl=ep_allreduce model=mixtral mesh=ep=2 dtype=fp32 experts_backend=batched_mm phases=load,forward,backward",
     {{"gradient_parity", "grad/scores_TK", 0, std::nullopt}, {"gradient_parity", "grad/scores_TK", 1, std::nullopt}}},
    [](Seams& seams) { seams.find_backend = detached_batched_mm; },
});

}  // namespace
}  // namespace moecheck::parallel_impls
