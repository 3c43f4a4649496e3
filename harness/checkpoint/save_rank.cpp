#include "harness/checkpoint/save_rank.h"

#include <algorithm>

#include <fmt/format.h>

#include "harness/base/require.h"
#include "harness/trace/safetensors.h"

namespace moecheck::checkpoint {
namespace {

using base::Shape;
using model::Dim;

struct Run {
  std::int64_t global = 0;
  std::int64_t local = 0;
  std::int64_t count = 0;
};

// Runs of adjacent indices, in local order.
std::vector<Run> runs_of(const std::vector<Dim>& indices) {
  std::vector<Run> runs;
  for (std::size_t i = 0; i < indices.size(); ++i) {
    if (!runs.empty() && runs.back().global + runs.back().count == indices[i]) {
      ++runs.back().count;
    } else {
      runs.push_back({indices[i], static_cast<std::int64_t>(i), 1});
    }
  }
  return runs;
}

// Ranks below this one that hold the same indices in every dimension.
std::int64_t replica_number(std::span<const model::Cut> cuts, const Shape& global, const model::Mesh& mesh, Dim rank) {
  const auto holds_same = [&](Dim other) {
    for (std::size_t d = 0; d < global.size(); ++d) {
      const auto dim = static_cast<Dim>(d);
      if (model::held_indices(cuts, global[d], dim, mesh, other) != model::held_indices(cuts, global[d], dim, mesh, rank)) return false;
    }
    return true;
  };
  std::int64_t number = 0;
  for (Dim other = 0; other < rank; ++other) number += holds_same(other) ? 1 : 0;
  return number;
}

std::string key_of(const std::string& name, std::size_t num_boxes, std::size_t box) {
  return num_boxes == 1 ? name : fmt::format("{}#{}", name, box);
}

}  // namespace

std::vector<HeldBox> held_boxes(std::span<const model::Cut> cuts, const Shape& global, const model::Mesh& mesh, Dim rank) {
  for (const model::Cut& cut : cuts) MOECHECK_REQUIRE(cut.placement.kind != model::PlacementKind::kPartial, cut.mesh_dim);
  const std::int64_t replica = replica_number(cuts, global, mesh, rank);
  std::vector<HeldBox> boxes = {{{}, {}, replica}};
  for (std::size_t d = 0; d < global.size(); ++d) {
    std::vector<HeldBox> longer;
    for (const HeldBox& box : boxes)
      for (const Run& run : runs_of(model::held_indices(cuts, global[d], static_cast<Dim>(d), mesh, rank))) {
        HeldBox next = box;
        next.global.offset.push_back(run.global);
        next.global.shape.push_back(run.count);
        next.local.offset.push_back(run.local);
        next.local.shape.push_back(run.count);
        longer.push_back(std::move(next));
      }
    boxes = std::move(longer);
  }
  return boxes;
}

base::Status write_rank_file(const std::filesystem::path& folder, const model::Mesh& mesh, Dim rank, const std::vector<LocalTensor>& tensors) {
  std::vector<trace::NamedTensor> stored;
  for (const LocalTensor& one : tensors) {
    MOECHECK_REQUIRE(one.tensor.shape() == model::held_shape(one.cuts, one.global_shape, mesh, rank), one.name);
    const std::vector<HeldBox> boxes = held_boxes(one.cuts, one.global_shape, mesh, rank);
    for (std::size_t i = 0; i < boxes.size(); ++i) {
      const bool is_whole = boxes[i].local == whole(one.tensor.shape());
      stored.push_back({key_of(one.name, boxes.size(), i), is_whole ? one.tensor : cut_out(one.tensor, boxes[i].local)});
    }
  }
  return trace::write_safetensors(folder / rank_file(rank), stored, {{"format", kShardedFormat}, {"mesh", mesh.text()}, {"rank", std::to_string(rank)}});
}

void add_shards(Index& index, Dim rank, const std::vector<LocalTensor>& tensors) {
  for (const LocalTensor& one : tensors) {
    ShardedTensor& entry = index.tensors.try_emplace(one.name, ShardedTensor{one.tensor.dtype(), one.global_shape, {}}).first->second;
    MOECHECK_REQUIRE(entry.dtype == one.tensor.dtype() && entry.shape == one.global_shape, one.name);
    const std::vector<HeldBox> boxes = held_boxes(one.cuts, one.global_shape, index.mesh, rank);
    for (std::size_t i = 0; i < boxes.size(); ++i)
      entry.shards.push_back({rank_file(rank), key_of(one.name, boxes.size(), i), boxes[i].global, boxes[i].replica});
  }
}

}  // namespace moecheck::checkpoint
