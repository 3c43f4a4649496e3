#include <algorithm>

#include "parallel_impls/faults/fault.h"

namespace moecheck::parallel_impls {
namespace {

// Every name is found in the file of the rank's own number; nobody asks how much of the tensor is in it.
std::vector<checkpoint::Shard> shards_of_own_file(const checkpoint::ShardedTensor& tensor, model::Dim rank) {
  std::vector<checkpoint::Shard> own;
  std::ranges::copy_if(tensor.shards, std::back_inserter(own), [&](const checkpoint::Shard& shard) { return shard.file == checkpoint::rank_file(rank); });
  return own;
}

MOECHECK_REGISTER_FAULT({
    {"shards_by_file_name", "L06, sglang#36438",
     "each rank reads the presharded file of its own number, though more ranks had saved: names are counted, not ranges, and half of the experts is never read",
     "shards_to_read", "impl=ep_allreduce model=mixtral mesh=ep=4 dtype=bf16 save=sharded restart=ep=2",
     {{"checkpoint_census", "param/experts/gate_up_EGD", 0, 3}, {"checkpoint_census", "param/experts/gate_up_EGD", 1, 6}}},
    [](Seams& seams) { seams.shards_to_read = shards_of_own_file; },
});

}  // namespace
}  // namespace moecheck::parallel_impls
