#include "parallel_impls/faults/fault.h"

namespace moecheck::parallel_impls {
namespace {

MOECHECK_REGISTER_FAULT({
    {"rank0_broadcasts_experts", "S08, transformers#45662",
     "rank 0 broadcasts every \"full\" parameter and fsdp redistributes it; that experts are unique to their expert-parallel rank is not known to it",
     "is_rank_unique", "impl=ep_fsdp model=mixtral mesh=fsdp=2,ep=2 dtype=bf16 tokens=7,5 tokens_over=dp,fsdp,ep loader=rank0_broadcast",
     {{"expert_census", "param/experts/gate_up_EGD", 1, 6}, {"expert_census", "param/experts/gate_up_EGD", 3, 6}, {"stage_diff", "experts/gate_up_RG", 1, std::nullopt}}},
    [](Seams& seams) {
      seams.is_rank_unique = [](const PlacedTensor&) { return false; };
    },
});

}  // namespace
}  // namespace moecheck::parallel_impls
