// Fills a rank's blank tensors from a checkpoint, as the case's loader does it.
#pragma once

#include "parallel_impls/loaders/source.h"

namespace moecheck::parallel_impls {

// sliced: reads what `into` keeps. full_then_shard: reads the whole tensor, then keeps its part. rank0_broadcast: rank 0 reads and
// broadcasts the whole tensor, of which each rank keeps its part, but for tensors that are unique to a rank (cut over expert or tensor
// parallel dimensions), which each rank reads itself; one tensor is in memory at a time.
// A tensor that the seams do not restore, or that the source does not have, stays blank.
// Errors: FileFailure.
void fill(std::vector<PlacedTensor>& into, const Source& source, LayerContext& context);

// What a sound fill() of these tensors sends.
std::vector<trace::DeclaredCollective> declared_of_fill(const std::vector<PlacedTensor>& filled, const cases::Case& one);

}  // namespace moecheck::parallel_impls
