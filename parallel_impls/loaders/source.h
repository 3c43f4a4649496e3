// A checkpoint as ranks read it: boxes of the layer's tensors by their taps' names, however the files cut and pack them.
#pragma once

#include <filesystem>
#include <memory>
#include <string_view>

#include "parallel_impls/layer/layer.h"
#include "parallel_impls/layer/state.h"

namespace moecheck::parallel_impls {

class Source {
 public:
  virtual ~Source() = default;
  virtual bool has(std::string_view name) const = 0;
  // The elements that `kept` names, dense, in the dtype of the file. Reads no more than it must.
  // Errors: FileFailure, with file and name, for a tensor that is missing or has another shape.
  virtual at::Tensor read(std::string_view name, const Kept& kept) const = 0;
};

// A Hugging Face style checkpoint of the problem's family: one file or several with an index; experts apart or packed
// (subject/checkpoint.h). Has param/* only.
// Errors: FileFailure for what harness/checkpoint refuses.
std::unique_ptr<Source> open_hf_source(const std::filesystem::path& folder, const model::Problem& problem);

// A training checkpoint (harness/checkpoint/format.h): any layout is read from any other. All files are verified before.
// Errors: FileFailure for what harness/checkpoint refuses.
std::unique_ptr<Source> open_sharded_source(const std::filesystem::path& folder, const LayerContext& context);

}  // namespace moecheck::parallel_impls
