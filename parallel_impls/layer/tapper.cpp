#include "parallel_impls/layer/tapper.h"

#include "harness/trace/tap_points.h"
#include "parallel_impls/layer/tensor_bridge.h"

namespace moecheck::parallel_impls {

void Tapper::tap(std::string_view name, const at::Tensor& tensor) {
  tap_placed(name, tensor, {}, base::Shape(tensor.sizes().begin(), tensor.sizes().end()));
}

void Tapper::tap_placed(std::string_view name, const at::Tensor& tensor, std::vector<model::Cut> cuts, base::Shape global_shape) {
  MOECHECK_REQUIRE(trace::find_tap(name) != nullptr, std::string(name));
  if (!is_recording()) return;
  taps_.insert_or_assign(std::string(name), trace::Tapped{to_host(tensor), std::move(cuts), std::move(global_shape)});
}

std::map<std::string, trace::Tapped, std::less<>> Tapper::take() { return std::exchange(taps_, {}); }

}  // namespace moecheck::parallel_impls
