#include "parallel_impls/loaders/slices.h"

#include <algorithm>

#include "parallel_impls/layer/tensor_bridge.h"

namespace moecheck::parallel_impls {
namespace {

using model::Dim;

// Along one dimension, where a box and a kept range meet.
struct Stretch {
  Dim in_part = 0;
  Dim in_local = 0;
  Dim count = 0;
};

std::vector<Stretch> stretches(const Ranges& kept, Dim box_first, Dim box_count) {
  std::vector<Stretch> met;
  Dim local = 0;
  for (const auto& [first, count] : kept) {
    const Dim from = std::max(first, box_first), to = std::min(first + count, box_first + box_count);
    if (from < to) met.push_back({from - box_first, local + from - first, to - from});
    local += count;
  }
  return met;
}

// One place in both tensors.
struct Overlap {
  checkpoint::Box part;
  base::Shape local;   // of its first element
};

std::vector<Overlap> overlaps_of(const Kept& kept, const checkpoint::Box& box) {
  std::vector<Overlap> overlaps = {{}};
  for (std::size_t d = 0; d < kept.size(); ++d) {
    std::vector<Overlap> longer;
    for (const Overlap& overlap : overlaps)
      for (const Stretch& stretch : stretches(kept[d], box.offset[d], box.shape[d])) {
        Overlap next = overlap;
        next.part.offset.push_back(stretch.in_part);
        next.part.shape.push_back(stretch.count);
        next.local.push_back(stretch.in_local);
        longer.push_back(std::move(next));
      }
    overlaps = std::move(longer);
  }
  return overlaps;
}

}  // namespace

Ranges ranges_of(const std::vector<Dim>& indices) {
  Ranges ranges;
  for (const Dim index : indices) {
    if (!ranges.empty() && ranges.back().first + ranges.back().second == index) {
      ++ranges.back().second;
    } else {
      ranges.emplace_back(index, 1);
    }
  }
  return ranges;
}

bool is_kept_inside(const Kept& kept, const base::Shape& shape) {
  if (kept.size() != shape.size()) return false;
  for (std::size_t d = 0; d < shape.size(); ++d)
    for (const auto& [first, count] : kept[d])
      if (first < 0 || count < 0 || count > shape[d] || first > shape[d] - count) return false;
  return true;
}

at::Tensor take(const at::Tensor& whole, const Kept& kept) {
  at::Tensor taken = whole;
  for (std::size_t d = 0; d < kept.size(); ++d) {
    const auto dim = static_cast<Dim>(d);
    std::vector<at::Tensor> pieces;
    for (const auto& [first, count] : kept[d]) pieces.push_back(taken.narrow(dim, first, count));
    if (pieces.empty()) pieces.push_back(taken.narrow(dim, 0, 0));
    taken = pieces.size() == 1 ? pieces[0] : at::cat(pieces, dim);
  }
  return taken.contiguous();
}

void copy_overlap(at::Tensor& into, const Kept& kept, const checkpoint::Box& box, const base::HostTensor& part) {
  for (const Overlap& overlap : overlaps_of(kept, box)) {
    at::Tensor place = into;
    for (std::size_t d = 0; d < overlap.local.size(); ++d)
      place = place.narrow(static_cast<Dim>(d), overlap.local[d], overlap.part.shape[d]);
    // By way of cut_out(): a file's bytes may be unaligned.
    place.copy_(to_torch(checkpoint::cut_out(part, overlap.part)));
  }
}

}  // namespace moecheck::parallel_impls
