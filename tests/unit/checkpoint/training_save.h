// A small training checkpoint as a case saves it: a dozen tensors in four types, replicated, cut, cut strided, and held by few ranks.
#pragma once

#include <filesystem>
#include <vector>

#include "harness/checkpoint/save_rank.h"

namespace moecheck::checkpoint {

// What a rank holds after so many steps: other values for every rank's file after other steps, of the same sizes.
// Requires: the mesh has dp = 2 and an ep that divides 8.
std::vector<LocalTensor> training_state(const model::Mesh& mesh, model::Dim rank, int steps);

// Every rank's file, then the index. Fails the test where it cannot.
void write_training_save(const std::filesystem::path& folder, const model::Mesh& mesh, int steps);

}  // namespace moecheck::checkpoint
