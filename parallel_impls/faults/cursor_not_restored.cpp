#include "parallel_impls/faults/fault.h"

namespace moecheck::parallel_impls {
namespace {

MOECHECK_REGISTER_FAULT({
    {"cursor_not_restored", "R6, mutation",
     "where the data goes on is not loaded: weights and optimizer go on at step 3, the batches begin again at the first", "is_restored",
     "impl=ep_allreduce model=mixtral mesh=ep=2 dtype=bf16 steps=3 save=sharded save_after=2 restart=ep=2 phases=load,forward,backward,step",
     {{"checkpoint_census", "state/batches_1", std::nullopt, std::nullopt}, {"stage_diff", "input/x_TD", 0, std::nullopt},
      {"training_state", "state/batches_1", 1, std::nullopt}, {"resume_determinism", "input/x_TD", 0, std::nullopt}}},
    [](Seams& seams) {
      seams.is_restored = [](std::string_view tensor) { return tensor != "state/batches_1"; };
    },
});

}  // namespace
}  // namespace moecheck::parallel_impls
