// Writes what the ranks hold to a checkpoint that is complete or not there.
#pragma once

#include <filesystem>
#include <functional>

#include "harness/cases/case.h"
#include "parallel_impls/layer/layer.h"
#include "parallel_impls/layer/state.h"

namespace moecheck::parallel_impls {

// reached: empty where no save is to be broken off; otherwise a file is written twice, half of it first.

// A training checkpoint: every rank writes its file aside (kStaged before it, kTorn when half of it is on disk), syncs it (kFiles);
// rank 0 writes the index (kIndex) and renames the folder (kCommitted). What a broken save left aside is removed first.
// Ranks: every rank of the mesh. Errors: FileFailure; then nothing is at `folder`.
void save_sharded(const std::vector<PlacedTensor>& state, const std::filesystem::path& folder, LayerContext& context, const SavePoint& reached);

// The weights alone, consolidated by rank 0, in the Hugging Face layout and the number of files that the case begins with, byte for byte
// what subject::write_checkpoint makes of the same values. A tensor at a time is whole on all ranks; rank 0 keeps them on its host, and
// a file's once more. Points as above, on rank 0; the last file is the one that is torn; the index of a single file is the file.
// Ranks: every rank of the mesh. Errors: FileFailure; then nothing is at `folder`.
void save_huggingface(const std::vector<PlacedTensor>& state, const std::filesystem::path& folder, LayerContext& context, const SavePoint& reached);

// What a save of that format sends. Bytes of a gather are left open.
std::vector<trace::DeclaredCollective> declared_of_save(const std::vector<PlacedTensor>& weights, const cases::Case& one);

}  // namespace moecheck::parallel_impls
