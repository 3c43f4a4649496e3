#include "parallel_impls/faults/fault.h"

namespace moecheck::parallel_impls {
namespace {

MOECHECK_REGISTER_FAULT({
    {"learning_rate_not_restored", "R6, mutation",
     "the schedule's state is not loaded: a resumed training steps at the first step's learning rate", "is_restored",
     "impl=ep_allreduce model=mixtral mesh=ep=2 dtype=bf16 lr_decay=0.5 steps=3 save=sharded save_after=2 restart=ep=2 phases=load,forward,backward,step",
     {{"checkpoint_census", "state/lr_1", std::nullopt, std::nullopt}, {"training_state", "state/lr_1", 0, std::nullopt},
      {"optimizer", "optim/master/experts/down_EDF", 1, std::nullopt}, {"resume_determinism", "optim/master/router/w_ED", 0, std::nullopt}}},
    [](Seams& seams) {
      seams.is_restored = [](std::string_view tensor) { return tensor != "state/lr_1"; };
    },
});

}  // namespace
}  // namespace moecheck::parallel_impls
