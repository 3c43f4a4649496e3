// Borrowed DLPack tensors as torch tensors and back; nothing is copied.
#pragma once

#include <vector>

#include <ATen/ATen.h>

#include "parallel_impls/external/plugin/moecheck_plugin.h"

namespace moecheck::parallel_impls {

// Errors: std::invalid_argument for what is not a tensor in host memory, with the reason.
at::Tensor borrowed(const DLTensor* tensor);

DLDataType to_dlpack(at::ScalarType type);

// What a plug-in is shown of a tensor on the host, which it keeps alive.
class LentTensor {
 public:
  explicit LentTensor(at::Tensor tensor);
  LentTensor(const LentTensor&) = delete;
  LentTensor& operator=(const LentTensor&) = delete;

  DLTensor* get() { return &view_; }
  const at::Tensor& tensor() const { return tensor_; }

 private:
  at::Tensor tensor_;
  std::vector<std::int64_t> shape_, strides_;
  DLTensor view_{};
};

}  // namespace moecheck::parallel_impls
