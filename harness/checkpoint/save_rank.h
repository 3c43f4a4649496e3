// Writing the sharded form: what each rank stores, and the entries of the index that say so.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "harness/base/result.h"
#include "harness/checkpoint/format.h"
#include "harness/model/placement.h"

namespace moecheck::checkpoint {

// A rank's local tensor, and how it lies in the global one.
struct LocalTensor {
  std::string name;
  base::HostTensor tensor;
  std::vector<model::Cut> cuts;   // empty: replicated
  base::Shape global_shape;
};

// A box that a rank holds, global and in its local tensor.
struct HeldBox {
  Box global;
  Box local;
  std::int64_t replica = 0;   // among ranks that hold it, by rank
};

// One box a run of adjacent indices in every dimension; none if the rank holds nothing.
// Requires: no partial placements.
std::vector<HeldBox> held_boxes(std::span<const model::Cut> cuts, const base::Shape& global, const model::Mesh& mesh, model::Dim rank);

// Writes rank<r>.safetensors. A box's key is the tensor's name, with "#0", "#1", ... where the rank holds several.
// Errors: kIo.
base::Status write_rank_file(const std::filesystem::path& folder, const model::Mesh& mesh, model::Dim rank, const std::vector<LocalTensor>& tensors);

// Adds the shards that this rank writes to the index. Every rank can do it for all: it needs no data.
// Requires: a tensor has the same global shape and dtype on all ranks.
void add_shards(Index& index, model::Dim rank, const std::vector<LocalTensor>& tensors);

}  // namespace moecheck::checkpoint
