// Whether the ranges that an index states are a whole: no hole, no overlap, and nothing beyond the tensor.
#pragma once

#include "harness/checkpoint/format.h"
#include "harness/checkpoint/problem.h"

namespace moecheck::checkpoint {

// For every tensor: shards lie inside it; those of replica 0 hold each element exactly once; any other shard repeats one of
// them, as replica 1, 2, ... without a gap; keys are of their tensors, and none is used twice.
Problems coverage_problems(const Index& index);

// For the index alone: world_size, mesh and files fit, and shards are in files that it lists.
Problems consistency_problems(const Index& index);

}  // namespace moecheck::checkpoint
