#include <algorithm>

#include "parallel_impls/faults/fault.h"

namespace moecheck::parallel_impls {
namespace {

// What is written is a true copy. The masters that the training goes on with are made anew from the model's bf16 weights.
std::vector<PlacedTensor> save_and_reload_masters(std::vector<PlacedTensor> state) {
  for (PlacedTensor& placed : state) {
    if (!placed.name.starts_with("optim/master/")) continue;
    at::Tensor live = placed.tensor;
    placed.tensor = live.clone();
    live.copy_(live.to(at::kBFloat16));
  }
  return state;
}

MOECHECK_REGISTER_FAULT({
    {"save_disturbs_training", "T4, mutation",
     "after a save the fp32 masters are rounded to the weights: what is saved is right, and the run that saved goes on from something else", "saved_state",
     "impl=ep_allreduce model=mixtral mesh=ep=2 dtype=bf16 optimizer=adamw steps=3 save=sharded save_after=2 restart=ep=2 phases=load,forward,backward,step",
     {{"save_undisturbed", "optim/master/router/w_ED", 0, std::nullopt}, {"save_undisturbed", "optim/master/router/w_ED", 1, std::nullopt},
      {"optimizer", "optim/master/experts/gate_up_EGD", 1, std::nullopt}}},
    [](Seams& seams) { seams.saved_state = save_and_reload_masters; },
});

}  // namespace
}  // namespace moecheck::parallel_impls
