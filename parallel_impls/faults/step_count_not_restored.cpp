#include "parallel_impls/faults/fault.h"

namespace moecheck::parallel_impls {
namespace {

MOECHECK_REGISTER_FAULT({
    {"step_count_not_restored", "R5, mutation",
     "the moments are loaded and the steps taken are not: AdamW corrects the bias of moments that are long past it, and steps too far", "is_restored",
     "impl=ep_allreduce model=mixtral mesh=ep=2 dtype=bf16 optimizer=adamw steps=3 save=sharded save_after=2 restart=ep=2 phases=load,forward,backward,step",
     {{"checkpoint_census", "optim/steps_3", std::nullopt, std::nullopt}, {"optimizer", "optim/steps_3", 0, std::nullopt},
      {"resume_determinism", "optim/steps_3", 1, std::nullopt}}},
    [](Seams& seams) {
      seams.is_restored = [](std::string_view tensor) { return tensor != "optim/steps_3"; };
    },
});

}  // namespace
}  // namespace moecheck::parallel_impls
