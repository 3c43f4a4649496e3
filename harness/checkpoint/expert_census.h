// Which experts each file of a checkpoint holds.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>

#include "harness/checkpoint/checkpoint.h"

namespace moecheck::checkpoint {

using ExpertsOfGroups = std::map<std::string, std::set<std::int64_t>>;   // "model.layers.0.mlp.experts" -> {0, 1, 2, 3}

// By file; an expert counts where a part of one of its tensors is. Files without experts are not in it.
std::map<std::string, ExpertsOfGroups> experts_by_file(const Checkpoint& checkpoint);

// "0..3", or "0..7 of 47 groups, 0..3 of 1 group" where the groups differ; "none".
std::string experts_text(const ExpertsOfGroups& groups);

}  // namespace moecheck::checkpoint
