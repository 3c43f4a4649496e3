#include "harness/check/claimed_layout.h"

#include <algorithm>
#include <iterator>

#include <fmt/format.h>

namespace moecheck::check {

using model::Cut;
using model::Dim;

Layout layout_of(std::span<const Cut> cuts, const model::Mesh& mesh) {
  Layout layout;
  for (const Cut& cut : cuts) {
    std::string dims;
    for (std::size_t at = 0; at <= cut.mesh_dim.size();) {
      const std::size_t comma = std::min(cut.mesh_dim.find(',', at), cut.mesh_dim.size());
      const std::string dim = cut.mesh_dim.substr(at, comma - at);
      if (mesh.size(dim) > 1) dims += (dims.empty() ? "" : ",") + dim;
      at = comma + 1;
    }
    if (!dims.empty() && cut.placement.kind != model::PlacementKind::kReplicate) layout.insert({dims, cut.placement.text()});
  }
  return layout;
}

std::string shape_misfit(const model::Mesh& mesh, Dim rank, const trace::Tapped& tapped) {
  base::Shape shape = tapped.global_shape;
  for (const Cut& cut : tapped.cuts) {
    const auto dim = static_cast<std::size_t>(cut.placement.dim);
    const Dim pieces = mesh.size(cut.mesh_dim);
    const Dim unit = cut.placement.blocks > 1 ? cut.placement.blocks * pieces : 1;
    if (dim >= shape.size() || shape[dim] % unit != 0)
      return fmt::format("{} over {} cannot cut {}", cut.placement.text(), cut.mesh_dim, base::shape_text(shape));
    shape[dim] = static_cast<Dim>(model::local_indices(cut.placement, shape[dim], mesh.coordinate(rank, cut.mesh_dim), pieces).size());
  }
  if (shape == tapped.tensor.shape()) return "";
  return fmt::format("{} of {} leaves this rank {}, it holds {}", model::text(tapped.cuts), base::shape_text(tapped.global_shape),
                     base::shape_text(shape), base::shape_text(tapped.tensor.shape()));
}

std::string difference(const Layout& claimed, const Layout& declared) {
  if (claimed.empty()) return "not sharded at all: a plan entry that did nothing, or a layout that was ignored";
  Layout lost, instead;
  std::ranges::set_difference(declared, claimed, std::inserter(lost, lost.end()));
  std::ranges::set_difference(claimed, declared, std::inserter(instead, instead.end()));
  for (const auto& [group, placement] : lost)
    for (const auto& [other_group, other] : instead)
      if (placement == other) return fmt::format("cut over the wrong group: {}, declared {}", other_group, group);
  for (const auto& [group, placement] : lost)
    for (const auto& [other_group, other] : instead) {
      if (group != other_group) continue;
      const bool is_packed = placement.starts_with("Strided") || other.starts_with("Strided");
      return fmt::format("{}: cut as {}, declared {}", is_packed ? "gate and up are packed" : "cut along the wrong dimension", other, placement);
    }
  return "";
}

}  // namespace moecheck::check
