#include "harness/base/dtype.h"

#include <array>
#include <bit>
#include <cmath>

#include "harness/base/require.h"

namespace moecheck::base {
namespace {

struct DTypeRow {
  DType dtype;
  std::size_t itemsize;
  std::string_view safetensors;
  std::string_view knob;
  bool floating;
  double roundoff;
  double underflow;
};

const std::array<DTypeRow, 8> kRows = {{
    {DType::kF32, 4, "F32", "fp32", true, 0x1p-24, 0x1p-150},
    {DType::kF64, 8, "F64", "fp64", true, 0x1p-53, 0.0},
    {DType::kBF16, 2, "BF16", "bf16", true, 0x1p-8, 0x1p-134},
    {DType::kF16, 2, "F16", "fp16", true, 0x1p-11, 0x1p-25},
    {DType::kI64, 8, "I64", "int64", false, 0, 0},
    {DType::kI32, 4, "I32", "int32", false, 0, 0},
    {DType::kU8, 1, "U8", "uint8", false, 0, 0},
    {DType::kBool, 1, "BOOL", "bool", false, 0, 0},
}};

const DTypeRow& row(DType dtype) {
  const auto index = static_cast<std::size_t>(dtype);
  MOECHECK_REQUIRE(index < kRows.size() && kRows[index].dtype == dtype);
  return kRows[index];
}

}  // namespace

std::size_t itemsize(DType dtype) { return row(dtype).itemsize; }
std::string_view safetensors_name(DType dtype) { return row(dtype).safetensors; }
std::string_view knob_name(DType dtype) { return row(dtype).knob; }
bool is_floating(DType dtype) { return row(dtype).floating; }
double unit_roundoff(DType dtype) { return row(dtype).roundoff; }
double underflow_unit(DType dtype) { return row(dtype).underflow; }

std::optional<DType> dtype_from_safetensors(std::string_view name) {
  for (const DTypeRow& r : kRows)
    if (r.safetensors == name) return r.dtype;
  return std::nullopt;
}

std::optional<DType> dtype_from_knob(std::string_view name) {
  for (const DTypeRow& r : kRows)
    if (r.knob == name) return r.dtype;
  return std::nullopt;
}

std::uint16_t bf16_from_float(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if (std::isnan(value)) return static_cast<std::uint16_t>((bits >> 16) | 0x40U);
  const std::uint32_t round = 0x7FFFU + ((bits >> 16) & 1U);
  return static_cast<std::uint16_t>((bits + round) >> 16);
}

float float_from_bf16(std::uint16_t bits) { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }

std::uint16_t f16_from_float(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000U);
  if (std::isnan(value)) return static_cast<std::uint16_t>(sign | 0x7E00U);
  const double magnitude = std::fabs(static_cast<double>(value));
  if (magnitude >= 65520.0) return static_cast<std::uint16_t>(sign | 0x7C00U);
  if (magnitude < 0x1p-14) {  // subnormal: a multiple of 2^-24, rint rounds ties to even
    return static_cast<std::uint16_t>(sign | static_cast<std::uint16_t>(std::rint(magnitude * 0x1p24)));
  }
  const std::uint32_t absolute = bits & 0x7FFFFFFFU;
  const std::uint32_t rounded = absolute + 0xFFFU + ((absolute >> 13) & 1U);
  return static_cast<std::uint16_t>(sign | ((rounded >> 13) - (112U << 10)));
}

float float_from_f16(std::uint16_t bits) {
  const double sign = (bits & 0x8000U) != 0 ? -1.0 : 1.0;
  const int exponent = (bits >> 10) & 0x1F;
  const int fraction = bits & 0x3FF;
  if (exponent == 31) return static_cast<float>(fraction != 0 ? std::nan("") : sign * HUGE_VAL);
  if (exponent == 0) return static_cast<float>(sign * std::ldexp(fraction, -24));
  return static_cast<float>(sign * std::ldexp(1024 + fraction, exponent - 25));
}

double round_to(DType dtype, double value) {
  switch (dtype) {
    case DType::kF64: return value;
    case DType::kF32: return static_cast<double>(static_cast<float>(value));
    // Double rounding through fp32 is harmless for values that fp32 holds exactly; elsewhere it is off by at most one tie.
    case DType::kBF16: return static_cast<double>(float_from_bf16(bf16_from_float(static_cast<float>(value))));
    case DType::kF16: return static_cast<double>(float_from_f16(f16_from_float(static_cast<float>(value))));
    default: return std::rint(value);
  }
}

}  // namespace moecheck::base
