#include "parallel_impls/faults/fault.h"

namespace moecheck::parallel_impls {
namespace {

// One contiguous piece of [gate; up]: the first ranks get only gates, the last only ups.
Ranges contiguous_rows(model::Dim packed_rows, const ShardContext& shard) {
  const model::Dim piece = packed_rows / shard.size;
  return {{shard.coordinate * piece, piece}};
}

MOECHECK_REGISTER_FAULT({
    {"packed_contiguous_shard", "S15, transformers#46290",
     "the packed gate_up is cut contiguously instead of gate and up each: rank 0 holds only gates", "packed_rows",
     "impl=tp_sharded model=qwen3_moe mesh=tp=2 dtype=fp32",
     {{"expert_census", "param/experts/gate_up_EGD", 0, 0}, {"expert_census", "param/experts/gate_up_EGD", 1, 0}, {"stage_diff", "experts/gate_up_RG", 0, std::nullopt}}},
    [](Seams& seams) { seams.packed_rows = contiguous_rows; },
});

}  // namespace
}  // namespace moecheck::parallel_impls
