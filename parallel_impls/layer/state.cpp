#include "parallel_impls/layer/state.h"

#include <limits>
#include <numeric>

namespace moecheck::parallel_impls {

using model::Dim;

Kept keep_all(const base::Shape& shape) {
  Kept kept;
  for (const Dim size : shape) kept.push_back({{0, size}});
  return kept;
}

base::Shape kept_shape(const Kept& kept) {
  base::Shape shape;
  for (const Ranges& ranges : kept)
    shape.push_back(std::accumulate(ranges.begin(), ranges.end(), Dim{0}, [](Dim sum, const auto& range) { return sum + range.second; }));
  return shape;
}

at::Tensor blank(const base::Shape& shape, at::ScalarType type, at::Device device) {
  const auto options = at::TensorOptions().dtype(type).device(device);
  if (at::isFloatingType(type)) return at::full(shape, std::numeric_limits<double>::quiet_NaN(), options);
  return at::full(shape, std::numeric_limits<std::int64_t>::min(), options);
}

}  // namespace moecheck::parallel_impls
