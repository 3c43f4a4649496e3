#include "parallel_impls/faults/fault.h"

namespace moecheck::parallel_impls {
namespace {

bool is_moment_of_experts(std::string_view name) { return name.starts_with("optim/m/experts/") || name.starts_with("optim/v/experts/"); }

// Dense state is one and the same to all ranks, so the first rank's indices do for everyone. Experts' state goes through the same code.
std::pair<std::string, Kept> as_dense_state(const PlacedTensor& placed) {
  Kept kept = placed.kept;
  if (is_moment_of_experts(placed.name)) kept[0] = {{0, placed.tensor.size(0)}};
  return {placed.name, kept};
}

MOECHECK_REGISTER_FAULT({
    {"expert_moments_of_rank_0", "L04, NVIDIA/Megatron-LM#761",
     "the optimizer state of dense and expert parameters is loaded alike: every expert-parallel rank gets the moments of the first one's experts", "stored_as",
     "impl=ep_allreduce model=mixtral mesh=ep=2 dtype=bf16 optimizer=adamw steps=3 save=sharded save_after=2 restart=ep=2 phases=load,forward,backward,step",
     {{"checkpoint_census", "optim/m/experts/gate_up_EGD", 1, 6}, {"checkpoint_round_trip", "save", std::nullopt, std::nullopt},
      {"resume_determinism", "optim/m/experts/gate_up_EGD", 1, std::nullopt}}},
    [](Seams& seams) { seams.stored_as = as_dense_state; },
});

}  // namespace
}  // namespace moecheck::parallel_impls
