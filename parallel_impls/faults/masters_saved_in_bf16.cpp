#include <algorithm>

#include "parallel_impls/faults/fault.h"

namespace moecheck::parallel_impls {
namespace {

// The export casts all that floats to the model's dtype; the file's dtype is declared, so it is cast back.
std::vector<PlacedTensor> cast_with_the_model(std::vector<PlacedTensor> state) {
  for (PlacedTensor& placed : state)
    if (placed.name.starts_with("optim/master/")) placed.tensor = placed.tensor.to(at::kBFloat16).to(at::kFloat);
  return state;
}

MOECHECK_REGISTER_FAULT({
    {"masters_saved_in_bf16", "O10, ISEEKYAN/Megatron-LM#81",
     "an fp32 tensor is cast with the model when it is exported: names, shapes and dtypes are right, and the bits below bf16 are gone", "saved_state",
     "impl=ep_allreduce model=mixtral mesh=ep=2 dtype=bf16 optimizer=adamw steps=3 save=sharded save_after=2 restart=ep=2 phases=load,forward,backward,step",
     {{"checkpoint_census", "optim/master/experts/gate_up_EGD", 0, 0}, {"checkpoint_census", "optim/master/experts/gate_up_EGD", 1, 6},
      {"resume_determinism", "optim/master/router/w_ED", 0, std::nullopt}}},
    [](Seams& seams) { seams.saved_state = cast_with_the_model; },
});

}  // namespace
}  // namespace moecheck::parallel_impls
