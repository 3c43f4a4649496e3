#include "parallel_impls/faults/fault.h"

namespace moecheck::parallel_impls {
namespace {

MOECHECK_REGISTER_FAULT({
    {"experts_not_owned", "O05, DeepSpeed#8377",
     "the optimizer was built before the experts were replaced by their shards: it steps none of them, and the loss still falls", "is_owned",
     "impl=ep_allreduce model=mixtral mesh=ep=2 dtype=bf16 optimizer=adamw steps=2 phases=load,forward,backward,step",
     {{"optimizer", "optim/m/experts/gate_up_EGD", 0, std::nullopt}, {"optimizer", "optim/m/experts/down_EDF", 1, std::nullopt}}},
    [](Seams& seams) {
      seams.is_owned = [](std::string_view parameter) { return parameter == kRouter; };
    },
});

}  // namespace
}  // namespace moecheck::parallel_impls
