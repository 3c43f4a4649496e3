// A dense, row-major tensor in host memory, as it came out of a file: bytes, dtype, shape.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "harness/base/dtype.h"
#include "harness/base/require.h"

namespace moecheck::base {

using Shape = std::vector<std::int64_t>;

std::int64_t num_elements(const Shape& shape);
std::string shape_text(const Shape& shape);  // "(3, 64)"

// Bytes are shared and never changed after construction by a reader; a maker fills mutable_bytes() before sharing.
class HostTensor {
 public:
  HostTensor() = default;
  HostTensor(DType dtype, Shape shape);  // zero-filled
  // A view into memory kept alive by `owner` (a mapped file).
  HostTensor(DType dtype, Shape shape, std::shared_ptr<const void> owner, const std::byte* data);

  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  std::int64_t dim(std::size_t index) const { return shape_.at(index); }
  std::int64_t numel() const { return num_elements(shape_); }
  std::size_t num_bytes() const { return static_cast<std::size_t>(numel()) * itemsize(dtype_); }
  std::span<const std::byte> bytes() const { return {data_, num_bytes()}; }
  std::span<std::byte> mutable_bytes();  // only for a tensor that owns its bytes

  // Any dtype, converted.
  double at(std::int64_t flat_index) const {
    if (dtype_ == DType::kF64) return read_as<double>(flat_index);
    if (dtype_ == DType::kF32) return static_cast<double>(read_as<float>(flat_index));
    return converted_at(flat_index);
  }
  std::int64_t int_at(std::int64_t flat_index) const;  // integer dtypes
  void set(std::int64_t flat_index, double value);     // rounds to the dtype
  std::vector<double> to_doubles() const;

  // Typed view; T must have the dtype's size. Data from a safetensors file may be unaligned: use at() there.
  template <typename T>
  std::span<T> mutable_view() {
    MOECHECK_REQUIRE(sizeof(T) == itemsize(dtype_));
    auto raw = mutable_bytes();
    return {reinterpret_cast<T*>(raw.data()), raw.size() / sizeof(T)};
  }

 private:
  // Data of a file may be unaligned.
  template <typename T>
  T read_as(std::int64_t flat_index) const {
    T value;
    std::memcpy(&value, data_ + static_cast<std::size_t>(flat_index) * sizeof(T), sizeof(T));
    return value;
  }
  double converted_at(std::int64_t flat_index) const;

  DType dtype_ = DType::kF32;
  Shape shape_ = {0};
  std::shared_ptr<const void> owner_;
  std::shared_ptr<std::vector<std::byte>> own_;
  const std::byte* data_ = nullptr;
};

HostTensor tensor_from_doubles(DType dtype, Shape shape, std::span<const double> values);
HostTensor tensor_from_ints(Shape shape, std::span<const std::int64_t> values);  // kI64

bool same_bytes(const HostTensor& a, const HostTensor& b);  // dtype, shape and every byte

}  // namespace moecheck::base
