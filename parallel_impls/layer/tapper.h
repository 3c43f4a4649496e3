// Collects what a rank shows: named local tensors with placement; written to a file when a phase ends.
#pragma once

#include <string_view>

#include <ATen/ATen.h>

#include "harness/trace/trace.h"

namespace moecheck::parallel_impls {

enum class Recording { kOn, kOff };

class Tapper {
 public:
  // kOff keeps nothing, so that ci/bench can measure what recording costs.
  explicit Tapper(Recording recording) : recording_(recording) {}

  bool is_recording() const { return recording_ == Recording::kOn; }

  // Copies the tensor: later in-place changes do not reach the trace. Replicate, full shape.
  void tap(std::string_view name, const at::Tensor& tensor);
  void tap_placed(std::string_view name, const at::Tensor& tensor, std::vector<model::Cut> cuts, base::Shape global_shape);

  std::map<std::string, trace::Tapped, std::less<>> take();

 private:
  Recording recording_;
  std::map<std::string, trace::Tapped, std::less<>> taps_;
};

}  // namespace moecheck::parallel_impls
