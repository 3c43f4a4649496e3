#include <algorithm>
#include <stdexcept>

#include <fmt/format.h>

#include "parallel_impls/faults/fault.h"

namespace moecheck::parallel_impls {
namespace {

// The attribute that says "this module can reshard" was moved, so the loader takes each rank's own file as it is.
std::vector<checkpoint::Shard> shards_of_same_rank(const checkpoint::ShardedTensor& tensor, model::Dim rank) {
  std::vector<checkpoint::Shard> own;
  std::ranges::copy_if(tensor.shards, std::back_inserter(own), [&](const checkpoint::Shard& shard) { return shard.file == checkpoint::rank_file(rank); });
  if (own.empty()) throw std::out_of_range(fmt::format("KeyError: '{}'", checkpoint::rank_file(rank)));
  return own;
}

MOECHECK_REGISTER_FAULT({
    {"reshard_never_runs", "L09, mlc-ai/pith-train#89",
     "the check whether a checkpoint must be resharded looks for an attribute that was moved: it never is, and ranks miss their keys", "shards_to_read",
     "impl=ep_allreduce model=mixtral mesh=ep=2 dtype=bf16 save=sharded restart=ep=4",
     {{"expert_census", "param/experts/gate_up_EGD", 1, 3}, {"phase_completion", "load", 2, std::nullopt}, {"phase_completion", "load", 3, std::nullopt}}},
    [](Seams& seams) { seams.shards_to_read = shards_of_same_rank; },
});

}  // namespace
}  // namespace moecheck::parallel_impls
