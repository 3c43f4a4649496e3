// Element types of tensors that cross a process border, and their rounding.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace moecheck::base {

enum class DType { kF32, kF64, kBF16, kF16, kI64, kI32, kU8, kBool };

std::size_t itemsize(DType dtype);             // bytes
std::string_view safetensors_name(DType dtype);  // "F32", "BF16", "I64", ...
std::optional<DType> dtype_from_safetensors(std::string_view name);
std::string_view knob_name(DType dtype);       // "fp32", "bf16", ...
std::optional<DType> dtype_from_knob(std::string_view name);
bool is_floating(DType dtype);

// Unit roundoff u (half of finfo.eps): 2^-24 for fp32, 2^-8 for bf16, 2^-11 for fp16. 0 for integers.
double unit_roundoff(DType dtype);
// Half of the smallest subnormal: the absolute part of one rounding.
double underflow_unit(DType dtype);

// Round to nearest, ties to even; NaN stays NaN, overflow becomes Inf.
std::uint16_t bf16_from_float(float value);
float float_from_bf16(std::uint16_t bits);
std::uint16_t f16_from_float(float value);
float float_from_f16(std::uint16_t bits);

// `value` rounded once to `dtype`, returned as double.
double round_to(DType dtype, double value);

}  // namespace moecheck::base
