// What a sound implementation does with checkpoints, where it is known to go wrong.
#pragma once

#include "parallel_impls/layer/seams.h"

namespace moecheck::parallel_impls {

// Fills the six seams of checkpoints.
void fill_checkpointing(Seams& seams);

// The sound functions, for faults that change one of them slightly.

// Unique: cut over a mesh dimension that fsdp has no part in. What fsdp alone cuts is one and the same tensor to all.
bool is_cut_beyond_fsdp(const PlacedTensor& placed);
bool is_of_fsdp(const model::Cut& cut);   // over fsdp, alone or with others: "fsdp,ep"

// Those that tile the tensor.
std::vector<checkpoint::Shard> original_shards(const checkpoint::ShardedTensor& tensor, model::Dim rank);

// All-gathers over one cut after the other, the innermost first, at the site of the tensor's name. Shards may be uneven or empty.
// Returns the global tensor on every rank, on its device. Memory: twice the global tensor.
// Ranks: every rank of the mesh. Errors: std::runtime_error for a tensor whose shape its cuts do not make.
at::Tensor gather_over_cuts(const PlacedTensor& placed, Communicator& comm);

}  // namespace moecheck::parallel_impls
