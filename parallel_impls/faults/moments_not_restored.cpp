#include "parallel_impls/faults/fault.h"

namespace moecheck::parallel_impls {
namespace {

bool is_no_moment(std::string_view tensor) { return !tensor.starts_with("optim/m/") && !tensor.starts_with("optim/v/"); }

MOECHECK_REGISTER_FAULT({
    {"moments_not_restored", "L14, KempnerForge#115",
     "a fresh optimizer has no moments yet, so the loader finds nothing to fill: training goes on without those that were saved", "is_restored",
     "impl=ep_allreduce model=mixtral mesh=ep=2 dtype=bf16 optimizer=adamw steps=3 save=sharded save_after=2 restart=ep=2 phases=load,forward,backward,step",
     {{"checkpoint_census", "optim/m/router/w_ED", std::nullopt, std::nullopt}, {"checkpoint_round_trip", "save", std::nullopt, std::nullopt},
      {"optimizer", "optim/master/experts/gate_up_EGD", 1, std::nullopt}, {"resume_determinism", "optim/steps_3", 0, std::nullopt}}},
    [](Seams& seams) { seams.is_restored = is_no_moment; },
});

}  // namespace
}  // namespace moecheck::parallel_impls
