// A box of a tensor: a range of global indices in every dimension.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "harness/base/host_tensor.h"

namespace moecheck::checkpoint {

struct Box {
  base::Shape offset;
  base::Shape shape;
  bool operator==(const Box&) const = default;
  auto operator<=>(const Box&) const = default;
};

Box whole(const base::Shape& shape);
std::string box_text(const Box& box);                        // "[0:4, 0:48]"
bool is_inside(const Box& box, const base::Shape& shape);    // as many dimensions, no index outside
bool overlaps(const Box& a, const Box& b);                   // share an element; of the same number of dimensions

// A part of the tensor that no box holds, the first in row-major order.
// Requires: every box is inside.
std::optional<Box> first_hole(const base::Shape& shape, std::span<const Box> boxes);

// Copies the elements that two boxes of one global tensor share. `to` and `from` hold their boxes, dense.
// Requires: same dtype, and as many dimensions.
void copy_common(base::HostTensor& to, const Box& to_box, const base::HostTensor& from, const Box& from_box);

// Copies a dense tensor of shape `box.shape` to its place in `global`. Requires: same dtype, box inside.
void copy_into(base::HostTensor& global, const Box& box, const base::HostTensor& part);

// The elements of `global` in the box, dense.
base::HostTensor cut_out(const base::HostTensor& global, const Box& box);

}  // namespace moecheck::checkpoint
