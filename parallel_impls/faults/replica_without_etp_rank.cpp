#include <algorithm>

#include "parallel_impls/faults/fault.h"

namespace moecheck::parallel_impls {
namespace {

// A shard's replica is numbered without the expert-tensor-parallel rank: its piece passes for the whole, and the ranks' pieces for copies.
PlacedTensor without_tp(PlacedTensor placed) {
  for (const model::Cut& cut : placed.cuts)
    if (cut.mesh_dim == "tp") placed.global_shape[static_cast<std::size_t>(cut.placement.dim)] = placed.tensor.size(cut.placement.dim);
  std::erase_if(placed.cuts, [](const model::Cut& cut) { return cut.mesh_dim == "tp"; });
  return placed;
}

std::vector<PlacedTensor> forget_tp_of_experts(std::vector<PlacedTensor> state) {
  for (PlacedTensor& placed : state)
    if (placed.name.find("/experts/") != std::string::npos) placed = without_tp(std::move(placed));
  return state;
}

MOECHECK_REGISTER_FAULT({
    {"replica_without_etp_rank", "L01, Megatron-LM#1836",
     "the replica id of a saved shard lacks the expert-tensor-parallel rank: all pieces claim to be copies of one, and half of the weights is lost",
     "saved_state", "impl=ep_tp model=mixtral mesh=ep=2,tp=2 dtype=bf16 save=sharded",
     {{"checkpoint_census", "save", std::nullopt, std::nullopt}}},
    [](Seams& seams) { seams.saved_state = forget_tp_of_experts; },
});

}  // namespace
}  // namespace moecheck::parallel_impls
