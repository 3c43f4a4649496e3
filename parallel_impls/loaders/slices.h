// Cutting what a rank keeps out of tensors and boxes of tensors.
#pragma once

#include <span>

#include "harness/checkpoint/box.h"
#include "parallel_impls/layer/state.h"

namespace moecheck::parallel_impls {

// Adjacent indices as one range each.
Ranges ranges_of(const std::vector<model::Dim>& indices);

// All ranges lie in a tensor of that shape.
bool is_kept_inside(const Kept& kept, const base::Shape& shape);

// The elements that are kept, dense. Requires: they lie inside.
at::Tensor take(const at::Tensor& whole, const Kept& kept);

// Writes what the box has of the kept elements to their places in `into`, which is what a rank keeps; nothing else is touched or copied.
// part: the box's elements. Requires: same dtype, as many dimensions; `into` is on the host and contiguous.
void copy_overlap(at::Tensor& into, const Kept& kept, const checkpoint::Box& box, const base::HostTensor& part);

}  // namespace moecheck::parallel_impls
