#include "parallel_impls/faults/fault.h"

namespace moecheck::parallel_impls {
namespace {

// Rank 0's experts are broadcast as if all ranks held the same.
void broadcast_from_rank_0(LayerParams& params, Communicator& comm) {
  comm.broadcast(params.gate_up_EGD, 0, "ep", "load");
  comm.broadcast(params.down_EDF, 0, "ep", "load");
}

MOECHECK_REGISTER_FAULT({
    {"expert_overwritten_on_load", "S08, transformers#45662",
     "after loading, rank 0's experts are broadcast over the expert-parallel group: the other ranks lose theirs", "after_load",
     "impl=ep_allreduce model=mixtral mesh=ep=3 dtype=bf16",
     {{"expert_census", "param/experts/gate_up_EGD", 1, 4}, {"expert_census", "param/experts/gate_up_EGD", 2, 8}, {"stage_diff", "experts/gate_up_RG", 2, 8}}},
    [](Seams& seams) { seams.after_load = broadcast_from_rank_0; },
});

}  // namespace
}  // namespace moecheck::parallel_impls
