// What a rank holds of the layer and its training, named as in a training checkpoint; what loaders fill and savers write.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include <ATen/ATen.h>

#include "harness/base/host_tensor.h"
#include "harness/model/placement.h"

namespace moecheck::parallel_impls {

// Contiguous pieces (first, count) of one dimension, in local order.
using Ranges = std::vector<std::pair<model::Dim, model::Dim>>;
// The global indices that a rank keeps: Ranges for each dimension.
using Kept = std::vector<Ranges>;

Kept keep_all(const base::Shape& shape);
base::Shape kept_shape(const Kept& kept);

// A local tensor, and where it lies in the global one. Copies share the storage: what is filled in is filled in everywhere.
struct PlacedTensor {
  std::string name;                // a tap's: "param/router/w_ED", "optim/m/experts/down_EDF", "state/lr_1"
  at::Tensor tensor;               // local
  Kept kept;                       // what it really is
  std::vector<model::Cut> cuts;    // what the plan says that it is; empty: replicated
  base::Shape global_shape;
};

// A tensor of that shape that nobody wrote: NaN, or the smallest integer. What keeps such values was never loaded.
at::Tensor blank(const base::Shape& shape, at::ScalarType type, at::Device device);

}  // namespace moecheck::parallel_impls
