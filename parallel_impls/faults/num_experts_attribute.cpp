#include <memory>

#include "parallel_impls/faults/fault.h"

namespace moecheck::parallel_impls {
namespace {

// The count is read from an attribute of the module, which the first parameter's sharding has already made local.
auto experts_of_attribute() {
  auto attribute = std::make_shared<model::Dim>(0);
  return [attribute](model::Dim num_experts, const ShardContext& shard) {
    const model::Dim read = *attribute == 0 ? num_experts : *attribute;
    const auto range = contiguous_experts(read, shard);
    *attribute = range.second;
    return range;
  };
}

MOECHECK_REGISTER_FAULT({
    {"num_experts_attribute", "S05, transformers#45473 (review)",
     "the number of experts is read from a module attribute that was already localised, not from the tensor", "expert_range",
     "impl=ep_allreduce model=qwen3_moe mesh=ep=2 dtype=fp32",
     {{"expert_census", "param/experts/down_EDF", 0, 3}, {"expert_census", "param/experts/down_EDF", 1, 9}}},
    [](Seams& seams) { seams.expert_range = experts_of_attribute(); },
});

}  // namespace
}  // namespace moecheck::parallel_impls
