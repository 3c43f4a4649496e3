#include "parallel_impls/faults/fault.h"

namespace moecheck::parallel_impls {
namespace {

// The slice follows the device index. Right as long as the expert-parallel dimension is the innermost of the mesh.
std::pair<model::Dim, model::Dim> experts_of_device(model::Dim num_experts, const ShardContext& shard) {
  ShardContext by_device = shard;
  by_device.coordinate = shard.local_rank % shard.size;
  return contiguous_experts(num_experts, by_device);
}

MOECHECK_REGISTER_FAULT({
    {"shard_by_device_not_rank", "S04, transformers#45473 (review)",
     "the slice of experts is chosen by the device index, not by the mesh-local rank", "expert_range",
     "impl=ep_allreduce model=qwen3_moe mesh=ep=2,dp=2 dtype=fp32",
     {{"expert_census", "param/experts/gate_up_EGD", 1, 0}, {"expert_census", "param/experts/gate_up_EGD", 2, 6}, {"replica_agreement", "param/experts/gate_up_EGD", 3, 6}}},
    [](Seams& seams) { seams.expert_range = experts_of_device; },
});

}  // namespace
}  // namespace moecheck::parallel_impls
