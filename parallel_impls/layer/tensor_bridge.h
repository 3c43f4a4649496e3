// Host tensors (files, generated inputs) to torch tensors and back; bytes are copied, never converted.
#pragma once

#include <ATen/ATen.h>

#include "harness/base/host_tensor.h"

namespace moecheck::parallel_impls {

at::ScalarType to_torch(base::DType dtype);
base::DType from_torch(at::ScalarType type);
at::Tensor to_torch(const base::HostTensor& tensor);
base::HostTensor to_host(const at::Tensor& tensor);

}  // namespace moecheck::parallel_impls
