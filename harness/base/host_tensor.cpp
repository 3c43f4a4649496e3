#include "harness/base/host_tensor.h"

#include <algorithm>

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace moecheck::base {
namespace {

template <typename T>
void write_as(std::byte* at, T value) {
  std::memcpy(at, &value, sizeof(T));
}

}  // namespace

std::int64_t num_elements(const Shape& shape) {
  std::int64_t count = 1;
  for (const std::int64_t d : shape) count *= d;
  return count;
}

std::string shape_text(const Shape& shape) { return fmt::format("({})", fmt::join(shape, ", ")); }

HostTensor::HostTensor(DType dtype, Shape shape) : dtype_(dtype), shape_(std::move(shape)) {
  own_ = std::make_shared<std::vector<std::byte>>(num_bytes());
  data_ = own_->data();
}

HostTensor::HostTensor(DType dtype, Shape shape, std::shared_ptr<const void> owner, const std::byte* data)
    : dtype_(dtype), shape_(std::move(shape)), owner_(std::move(owner)), data_(data) {}

std::span<std::byte> HostTensor::mutable_bytes() {
  MOECHECK_REQUIRE(own_ != nullptr);
  return {own_->data(), own_->size()};
}

double HostTensor::converted_at(std::int64_t flat_index) const {
  if (dtype_ == DType::kBF16) return static_cast<double>(float_from_bf16(read_as<std::uint16_t>(flat_index)));
  if (dtype_ == DType::kF16) return static_cast<double>(float_from_f16(read_as<std::uint16_t>(flat_index)));
  return static_cast<double>(int_at(flat_index));
}

std::int64_t HostTensor::int_at(std::int64_t flat_index) const {
  switch (dtype_) {
    case DType::kI64: return read_as<std::int64_t>(flat_index);
    case DType::kI32: return read_as<std::int32_t>(flat_index);
    case DType::kU8:
    case DType::kBool: return read_as<std::uint8_t>(flat_index);
    default: break;
  }
  MOECHECK_REQUIRE(!is_floating(dtype_), std::string(knob_name(dtype_)));
  return 0;
}

void HostTensor::set(std::int64_t flat_index, double value) {
  std::byte* p = mutable_bytes().data() + static_cast<std::size_t>(flat_index) * itemsize(dtype_);
  switch (dtype_) {
    case DType::kF32: return write_as(p, static_cast<float>(value));
    case DType::kF64: return write_as(p, value);
    case DType::kBF16: return write_as(p, bf16_from_float(static_cast<float>(value)));
    case DType::kF16: return write_as(p, f16_from_float(static_cast<float>(value)));
    case DType::kI64: return write_as(p, static_cast<std::int64_t>(value));
    case DType::kI32: return write_as(p, static_cast<std::int32_t>(value));
    case DType::kU8:
    case DType::kBool: return write_as(p, static_cast<std::uint8_t>(value));
  }
}

std::vector<double> HostTensor::to_doubles() const {
  std::vector<double> values(static_cast<std::size_t>(numel()));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = at(static_cast<std::int64_t>(i));
  return values;
}

HostTensor tensor_from_doubles(DType dtype, Shape shape, std::span<const double> values) {
  HostTensor tensor(dtype, std::move(shape));
  MOECHECK_REQUIRE(static_cast<std::size_t>(tensor.numel()) == values.size());
  for (std::size_t i = 0; i < values.size(); ++i) tensor.set(static_cast<std::int64_t>(i), values[i]);
  return tensor;
}

HostTensor tensor_from_ints(Shape shape, std::span<const std::int64_t> values) {
  HostTensor tensor(DType::kI64, std::move(shape));
  MOECHECK_REQUIRE(static_cast<std::size_t>(tensor.numel()) == values.size());
  std::copy(values.begin(), values.end(), tensor.mutable_view<std::int64_t>().begin());
  return tensor;
}

bool same_bytes(const HostTensor& a, const HostTensor& b) {
  return a.dtype() == b.dtype() && a.shape() == b.shape() && (a.num_bytes() == 0 || std::memcmp(a.bytes().data(), b.bytes().data(), a.num_bytes()) == 0);
}

}  // namespace moecheck::base
