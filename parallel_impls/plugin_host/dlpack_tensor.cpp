#include "parallel_impls/plugin_host/dlpack_tensor.h"

#include <array>
#include <stdexcept>

namespace moecheck::parallel_impls {
namespace {

constexpr int kMostDims = 8;
constexpr std::int64_t kMostElements = std::int64_t{1} << 40;

struct TypePair {
  std::uint8_t code;
  std::uint8_t bits;
  at::ScalarType torch;
};
constexpr std::array<TypePair, 8> kTypes = {{{kDLFloat, 32, at::kFloat},
                                             {kDLFloat, 64, at::kDouble},
                                             {kDLFloat, 16, at::kHalf},
                                             {kDLBfloat, 16, at::kBFloat16},
                                             {kDLInt, 64, at::kLong},
                                             {kDLInt, 32, at::kInt},
                                             {kDLUInt, 8, at::kByte},
                                             {kDLBool, 8, at::kBool}}};

at::ScalarType torch_type(DLDataType type) {
  for (const TypePair& pair : kTypes)
    if (pair.code == type.code && pair.bits == type.bits && type.lanes == 1) return pair.torch;
  throw std::invalid_argument(fmt::format("the tensor's dtype, DLPack code {} with {} bits and {} lanes, is none of fp32, fp64, fp16, bf16, int64, "
                                          "int32, uint8, bool", type.code, type.bits, type.lanes));
}

// Errors: std::invalid_argument.
void require(bool is_so, const std::string& otherwise) {
  if (!is_so) throw std::invalid_argument(otherwise);
}

}  // namespace

at::Tensor borrowed(const DLTensor* tensor) {
  require(tensor != nullptr, "the tensor is NULL");
  require(tensor->device.device_type == kDLCPU, "the tensor is not in host memory");
  require(tensor->ndim >= 0 && tensor->ndim <= kMostDims, fmt::format("the tensor has {} dims, at most {}", tensor->ndim, kMostDims));
  require(tensor->ndim == 0 || tensor->shape != nullptr, "the tensor has no shape");
  const auto type = at::TensorOptions(torch_type(tensor->dtype));
  const auto num_dims = static_cast<std::size_t>(tensor->ndim);
  std::vector<std::int64_t> shape(tensor->shape, tensor->shape + num_dims), strides(num_dims);
  std::int64_t elements = 1;
  for (std::size_t d = num_dims; d-- > 0;) {
    require(shape[d] >= 0 && shape[d] <= kMostElements, fmt::format("the tensor's dim {} has the size {}", d, shape[d]));
    strides[d] = tensor->strides == nullptr ? elements : tensor->strides[d];
    require(strides[d] >= 0, fmt::format("the tensor's dim {} has the stride {}", d, strides[d]));
    elements *= shape[d];
    require(elements <= kMostElements, "the tensor's shape has too many elements");
  }
  if (elements == 0) return at::empty(shape, type);
  require(tensor->data != nullptr, "the tensor has no data");
  return at::from_blob(static_cast<std::byte*>(tensor->data) + tensor->byte_offset, shape, strides, type);
}

DLDataType to_dlpack(at::ScalarType type) {
  for (const TypePair& pair : kTypes)
    if (pair.torch == type) return {pair.code, pair.bits, 1};
  throw std::invalid_argument(fmt::format("DLPack has no {} here", c10::toString(type)));
}

LentTensor::LentTensor(at::Tensor tensor)
    : tensor_(std::move(tensor)), shape_(tensor_.sizes().vec()), strides_(tensor_.strides().vec()) {
  view_.data = tensor_.data_ptr();
  view_.device = {kDLCPU, 0};
  view_.ndim = static_cast<std::int32_t>(shape_.size());
  view_.dtype = to_dlpack(tensor_.scalar_type());
  view_.shape = shape_.data();
  view_.strides = strides_.data();
}

}  // namespace moecheck::parallel_impls
