#include "parallel_impls/layer/tensor_bridge.h"

#include <cstring>

#include "harness/base/require.h"

namespace moecheck::parallel_impls {
namespace {

using base::DType;

constexpr std::array<std::pair<DType, at::ScalarType>, 8> kTypes = {{
    {DType::kF32, at::kFloat},
    {DType::kF64, at::kDouble},
    {DType::kBF16, at::kBFloat16},
    {DType::kF16, at::kHalf},
    {DType::kI64, at::kLong},
    {DType::kI32, at::kInt},
    {DType::kU8, at::kByte},
    {DType::kBool, at::kBool},
}};

}  // namespace

base::DType from_torch(at::ScalarType type) {
  for (const auto& [host, torch] : kTypes)
    if (torch == type) return host;
  MOECHECK_REQUIRE(false, c10::toString(type));
  return DType::kF32;
}

at::ScalarType to_torch(DType dtype) {
  for (const auto& [host, torch] : kTypes)
    if (host == dtype) return torch;
  MOECHECK_REQUIRE(false, std::string(base::knob_name(dtype)));
  return at::kFloat;
}

at::Tensor to_torch(const base::HostTensor& tensor) {
  at::Tensor result = at::empty(tensor.shape(), to_torch(tensor.dtype()));
  if (tensor.num_bytes() > 0) std::memcpy(result.data_ptr(), tensor.bytes().data(), tensor.num_bytes());
  return result;
}

base::HostTensor to_host(const at::Tensor& tensor) {
  const at::Tensor dense = tensor.detach().cpu().contiguous();
  // Not zeroed first, as a new HostTensor would be: a trace holds every gradient and all of the optimizer's state.
  const std::shared_ptr<std::byte[]> bytes = std::make_shared_for_overwrite<std::byte[]>(dense.nbytes());
  if (dense.nbytes() > 0) std::memcpy(bytes.get(), dense.data_ptr(), dense.nbytes());
  return {from_torch(dense.scalar_type()), base::Shape(dense.sizes().begin(), dense.sizes().end()), bytes, bytes.get()};
}

}  // namespace moecheck::parallel_impls
