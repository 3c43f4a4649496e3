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

// Elements between neighbours of each dimension, in a dense tensor of these sizes.
Shape strides_of(const Shape& shape) {
  Shape strides(shape.size(), 1);
  for (std::size_t d = shape.size(); d-- > 1;) strides[d - 1] = strides[d] * shape[d];
  return strides;
}

// Empty where the boxes share nothing.
Box common_of(const Box& a, const Box& b) {
  Box common{a.offset, a.shape};
  for (std::size_t d = 0; d < a.offset.size(); ++d) {
    common.offset[d] = std::max(a.offset[d], b.offset[d]);
    common.shape[d] = std::max<std::int64_t>(0, std::min(a.offset[d] + a.shape[d], b.offset[d] + b.shape[d]) - common.offset[d]);
  }
  return common;
}

// Where an index of the global tensor lies in a dense tensor that holds a box of it.
std::int64_t flat_in(const Box& box, const Shape& strides, const Shape& index) {
  std::int64_t flat = 0;
  for (std::size_t d = 0; d < index.size(); ++d) flat += (index[d] - box.offset[d]) * strides[d];
  return flat;
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
  MOECHECK_REQUIRE(box.offset.size() == box.shape.size());
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

void copy_common(base::HostTensor& to, const Box& to_box, const base::HostTensor& from, const Box& from_box) {
  MOECHECK_REQUIRE(to.shape() == to_box.shape && from.shape() == from_box.shape && to.dtype() == from.dtype(), box_text(from_box));
  MOECHECK_REQUIRE(to_box.shape.size() == from_box.shape.size(), box_text(to_box));
  const Box common = common_of(to_box, from_box);
  if (base::num_elements(common.shape) == 0) return;
  // Dimensions that both hold as far as they share them lie in one run; the others are counted through.
  std::size_t num_counted = common.shape.size();
  std::int64_t run = 1;
  bool is_dense = true;
  while (num_counted > 0 && is_dense) {
    run *= common.shape[--num_counted];
    is_dense = to_box.shape[num_counted] == common.shape[num_counted] && from_box.shape[num_counted] == common.shape[num_counted];
  }
  const Shape to_strides = strides_of(to_box.shape);
  const Shape from_strides = strides_of(from_box.shape);
  const std::size_t item = base::itemsize(to.dtype());
  std::byte* const into = to.mutable_bytes().data();
  const std::byte* const out_of = from.bytes().data();
  Shape at = common.offset;
  for (;;) {
    std::memcpy(into + static_cast<std::size_t>(flat_in(to_box, to_strides, at)) * item,
                out_of + static_cast<std::size_t>(flat_in(from_box, from_strides, at)) * item, static_cast<std::size_t>(run) * item);
    std::size_t d = num_counted;
    while (d > 0 && ++at[d - 1] == common.offset[d - 1] + common.shape[d - 1]) {
      --d;
      at[d] = common.offset[d];
    }
    if (d == 0) return;
  }
}

void copy_into(base::HostTensor& global, const Box& box, const base::HostTensor& part) {
  MOECHECK_REQUIRE(is_inside(box, global.shape()), box_text(box));
  copy_common(global, whole(global.shape()), part, box);
}

base::HostTensor cut_out(const base::HostTensor& global, const Box& box) {
  MOECHECK_REQUIRE(is_inside(box, global.shape()), box_text(box));
  base::HostTensor part(global.dtype(), box.shape);
  copy_common(part, box, global, whole(global.shape()));
  return part;
}

}  // namespace moecheck::checkpoint
