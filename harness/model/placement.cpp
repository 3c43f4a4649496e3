#include "harness/model/placement.h"

#include <algorithm>
#include <charconv>
#include <numeric>

#include <fmt/format.h>

namespace moecheck::model {
namespace {

base::Result<std::vector<Dim>> parse_arguments(std::string_view text, std::string_view whole) {
  std::vector<Dim> numbers;
  while (!text.empty()) {
    Dim number = 0;
    const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), number);
    const bool is_last = end == text.data() + text.size();
    if (code != std::errc{} || number < 0 || (!is_last && (*end != ',' || end + 1 == text.data() + text.size())))
      return base::Error{base::ErrorCode::kSubject, fmt::format("placement '{}' is not understood", whole), ""};
    numbers.push_back(number);
    text.remove_prefix(static_cast<std::size_t>(end - text.data()) + (is_last ? 0 : 1));
  }
  return numbers;
}

}  // namespace

std::string Placement::text() const {
  switch (kind) {
    case PlacementKind::kReplicate: return "Replicate";
    case PlacementKind::kShard: return fmt::format("Shard({})", dim);
    case PlacementKind::kStridedShard: return fmt::format("StridedShard({},{})", dim, blocks);
    case PlacementKind::kPartial: return "Partial";
  }
  return "";
}

base::Result<Placement> Placement::parse(std::string_view text) {
  if (text == "Replicate") return replicate();
  if (text == "Partial") return partial();
  const auto open = text.find('(');
  if (open != std::string_view::npos && text.ends_with(')')) {
    auto numbers = parse_arguments(text.substr(open + 1, text.size() - open - 2), text);
    if (!numbers) return numbers.error();
    const std::string_view kind = text.substr(0, open);
    if (kind == "Shard" && numbers->size() == 1) return shard((*numbers)[0]);
    if (kind == "StridedShard" && numbers->size() == 2 && (*numbers)[1] >= 1) return strided_shard((*numbers)[0], (*numbers)[1]);
  }
  return base::Error{base::ErrorCode::kSubject,
                     fmt::format("placement '{}' is none of Replicate, Shard(dim), StridedShard(dim,blocks), Partial", text), ""};
}

std::vector<Dim> local_indices(const Placement& placement, Dim size, Dim c, Dim n) {
  std::vector<Dim> indices;
  const bool is_sharded = placement.kind == PlacementKind::kShard || placement.kind == PlacementKind::kStridedShard;
  const Dim pieces = is_sharded ? n : 1;
  const Dim coordinate = is_sharded ? c : 0;
  MOECHECK_REQUIRE(placement.blocks == 1 || size % (pieces * placement.blocks) == 0, fmt::format("size {} over {} pieces", size, pieces));
  const Dim block = size / placement.blocks;
  const Dim piece = (block + pieces - 1) / pieces;
  for (Dim b = 0; b < placement.blocks; ++b)
    for (Dim i = coordinate * piece; i < std::min(block, (coordinate + 1) * piece); ++i) indices.push_back(b * block + i);
  return indices;
}

std::string text(std::span<const Cut> cuts) {
  std::string out;
  for (const Cut& cut : cuts) out += fmt::format("{}{} over {}", out.empty() ? "" : ", ", cut.placement.text(), cut.mesh_dim);
  return out.empty() ? "Replicate" : out;
}

std::vector<Dim> held_indices(std::span<const Cut> cuts, Dim size, Dim dim, const Mesh& mesh, Dim rank) {
  std::vector<Dim> held(static_cast<std::size_t>(size));
  std::iota(held.begin(), held.end(), Dim{0});
  for (const Cut& cut : cuts) {
    const bool is_sharded = cut.placement.kind == PlacementKind::kShard || cut.placement.kind == PlacementKind::kStridedShard;
    if (!is_sharded || cut.placement.dim != dim) continue;
    std::vector<Dim> kept;
    for (const Dim i : local_indices(cut.placement, static_cast<Dim>(held.size()), mesh.coordinate(rank, cut.mesh_dim), mesh.size(cut.mesh_dim)))
      kept.push_back(held[static_cast<std::size_t>(i)]);
    held = std::move(kept);
  }
  return held;
}

base::Shape held_shape(std::span<const Cut> cuts, const base::Shape& global, const Mesh& mesh, Dim rank) {
  base::Shape shape;
  for (std::size_t d = 0; d < global.size(); ++d)
    shape.push_back(static_cast<Dim>(held_indices(cuts, global[d], static_cast<Dim>(d), mesh, rank).size()));
  return shape;
}

}  // namespace moecheck::model
