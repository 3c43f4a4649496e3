// How a global tensor lies on the ranks of a mesh, and which global indices a rank holds.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "harness/base/host_tensor.h"
#include "harness/base/result.h"
#include "harness/model/mesh.h"

namespace moecheck::model {

enum class PlacementKind { kReplicate, kShard, kStridedShard, kPartial };

// Shard(dim): rank c of n holds the c-th of n contiguous pieces of ceil(size / n); the last ones may be smaller, or empty.
// StridedShard(dim, blocks): the dimension is `blocks` packed blocks (gate, then up); rank c holds the c-th piece of each.
// Partial: every rank holds a summand of full shape.
struct Placement {
  PlacementKind kind = PlacementKind::kReplicate;
  Dim dim = 0;
  Dim blocks = 1;

  std::string text() const;  // "Replicate", "Shard(0)", "StridedShard(1,2)", "Partial"
  static base::Result<Placement> parse(std::string_view text);
  bool operator==(const Placement&) const = default;
};

inline Placement replicate() { return {}; }
inline Placement shard(Dim dim) { return {PlacementKind::kShard, dim, 1}; }
inline Placement strided_shard(Dim dim, Dim blocks) { return {PlacementKind::kStridedShard, dim, blocks}; }
inline Placement partial() { return {PlacementKind::kPartial, 0, 1}; }

// Global indices along the sharded dimension that the rank with coordinate `c` of `n` holds, in local order.
// Requires: size % (n * blocks) == 0 for strided shards.
std::vector<Dim> local_indices(const Placement& placement, Dim size, Dim c, Dim n);

// A placement over one dimension of the mesh, or over several that count as one ("fsdp,ep").
struct Cut {
  std::string mesh_dim;
  Placement placement;
  bool operator==(const Cut&) const = default;
};

// "Shard(0) over ep, StridedShard(1,2) over tp"; "Replicate" for none.
std::string text(std::span<const Cut> cuts);

// Global indices along dimension `dim` of a tensor that the rank holds, in local order: cuts of the same dimension nest, the
// first outermost.
std::vector<Dim> held_indices(std::span<const Cut> cuts, Dim size, Dim dim, const Mesh& mesh, Dim rank);

// Local shape of a global tensor.
base::Shape held_shape(std::span<const Cut> cuts, const base::Shape& global, const Mesh& mesh, Dim rank);

}  // namespace moecheck::model
