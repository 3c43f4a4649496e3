#include "harness/checkpoint/box.h"

#include <algorithm>
#include <cstring>
#include <set>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "harness/base/require.h"

namespace moecheck::checkpoint {
namespace {

using base::Shape;

// Calls visit(first element in the global tensor, first element in the box, elements) for every run along the last dimension.
template <typename Visit>
void for_each_run(const Shape& global, const Box& box, Visit visit) {
  const std::size_t num_dims = global.size();
  if (num_dims == 0) return visit(std::int64_t{0}, std::int64_t{0}, std::int64_t{1});
  const std::int64_t count = base::num_elements(box.shape);
  const std::int64_t run = box.shape.back();
  Shape at(num_dims, 0);
  for (std::int64_t done = 0; done < count; done += run) {
    std::int64_t flat = 0;
    for (std::size_t d = 0; d < num_dims; ++d) flat = flat * global[d] + box.offset[d] + at[d];
    visit(flat, done, run);
    for (std::size_t d = num_dims - 1; d-- > 0;) {
      if (++at[d] < box.shape[d]) break;
      at[d] = 0;
    }
  }
}

bool holds(const Box& box, const Shape& element) {
  for (std::size_t d = 0; d < element.size(); ++d)
    if (element[d] < box.offset[d] || element[d] >= box.offset[d] + box.shape[d]) return false;
  return true;
}

// Along each dimension, where some box begins or ends: between two such places all boxes stay the same.
std::vector<Shape> borders(const Shape& shape, std::span<const Box> boxes) {
  std::vector<Shape> all;
  for (std::size_t d = 0; d < shape.size(); ++d) {
    std::set<std::int64_t> places = {0, shape[d]};
    for (const Box& box : boxes) {
      places.insert(box.offset[d]);
      places.insert(box.offset[d] + box.shape[d]);
    }
    all.emplace_back(places.begin(), places.end());
  }
  return all;
}

}  // namespace

Box whole(const Shape& shape) { return {Shape(shape.size(), 0), shape}; }

std::string box_text(const Box& box) {
  std::vector<std::string> ranges;
  for (std::size_t d = 0; d < box.offset.size(); ++d) ranges.push_back(fmt::format("{}:{}", box.offset[d], box.offset[d] + box.shape[d]));
  return fmt::format("[{}]", fmt::join(ranges, ", "));
}

bool is_inside(const Box& box, const Shape& shape) {
  if (box.offset.size() != shape.size() || box.shape.size() != shape.size()) return false;
  for (std::size_t d = 0; d < shape.size(); ++d)
    if (box.offset[d] < 0 || box.shape[d] < 0 || box.shape[d] > shape[d] || box.offset[d] > shape[d] - box.shape[d]) return false;
  return true;
}

bool overlaps(const Box& a, const Box& b) {
  MOECHECK_REQUIRE(a.offset.size() == b.offset.size());
  for (std::size_t d = 0; d < a.offset.size(); ++d)
    if (std::max(a.offset[d], b.offset[d]) >= std::min(a.offset[d] + a.shape[d], b.offset[d] + b.shape[d])) return false;
  return true;
}

std::optional<Box> first_hole(const Shape& shape, std::span<const Box> boxes) {
  if (base::num_elements(shape) == 0) return std::nullopt;
  const std::vector<Shape> places = borders(shape, boxes);
  const std::size_t num_dims = shape.size();
  std::vector<std::size_t> cell(num_dims, 0);
  for (;;) {
    Box here{Shape(num_dims), Shape(num_dims)};
    for (std::size_t d = 0; d < num_dims; ++d) {
      here.offset[d] = places[d][cell[d]];
      here.shape[d] = places[d][cell[d] + 1] - here.offset[d];
    }
    if (std::ranges::none_of(boxes, [&](const Box& box) { return holds(box, here.offset); })) return here;
    std::size_t d = num_dims;
    while (d > 0 && ++cell[d - 1] + 1 == places[d - 1].size()) cell[--d] = 0;
    if (d == 0) return std::nullopt;
  }
}

void copy_into(base::HostTensor& global, const Box& box, const base::HostTensor& part) {
  MOECHECK_REQUIRE(is_inside(box, global.shape()) && part.shape() == box.shape && part.dtype() == global.dtype(), box_text(box));
  const std::size_t item = base::itemsize(global.dtype());
  std::byte* to = global.mutable_bytes().data();
  const std::byte* from = part.bytes().data();
  for_each_run(global.shape(), box, [&](std::int64_t in_global, std::int64_t in_box, std::int64_t count) {
    std::memcpy(to + static_cast<std::size_t>(in_global) * item, from + static_cast<std::size_t>(in_box) * item,
                static_cast<std::size_t>(count) * item);
  });
}

base::HostTensor cut_out(const base::HostTensor& global, const Box& box) {
  MOECHECK_REQUIRE(is_inside(box, global.shape()), box_text(box));
  base::HostTensor part(global.dtype(), box.shape);
  const std::size_t item = base::itemsize(global.dtype());
  std::byte* to = part.mutable_bytes().data();
  const std::byte* from = global.bytes().data();
  for_each_run(global.shape(), box, [&](std::int64_t in_global, std::int64_t in_box, std::int64_t count) {
    std::memcpy(to + static_cast<std::size_t>(in_box) * item, from + static_cast<std::size_t>(in_global) * item,
                static_cast<std::size_t>(count) * item);
  });
  return part;
}

}  // namespace moecheck::checkpoint
