// How a global tensor lies on the ranks of one mesh dimension, and which global indices a rank holds.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "harness/base/host_tensor.h"
#include "harness/base/result.h"
#include "harness/model/dims.h"

namespace moecheck::model {

enum class PlacementKind { kReplicate, kShard, kStridedShard, kPartial };

// Shard(dim): rank c of n holds the c-th of n contiguous pieces.
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
// Requires: size % (n * blocks) == 0 for sharded placements.
std::vector<Dim> local_indices(const Placement& placement, Dim size, Dim c, Dim n);

// Local shape of a global tensor under `placement`.
base::Shape local_shape(const Placement& placement, const base::Shape& global, Dim n);

}  // namespace moecheck::model
