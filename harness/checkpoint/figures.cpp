#include "harness/checkpoint/figures.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "harness/base/require.h"

namespace moecheck::checkpoint {
namespace {

using base::DType;
using base::HostTensor;

// Bits of an element as a number, whatever the dtype.
std::uint64_t bits_of(const HostTensor& tensor, std::int64_t index) {
  const std::size_t item = base::itemsize(tensor.dtype());
  const std::byte* at = tensor.bytes().data() + static_cast<std::size_t>(index) * item;
  static_assert(std::endian::native == std::endian::little);
  std::uint64_t bits = 0;
  std::memcpy(&bits, at, item);
  return bits;
}

// Position among the representable numbers, from the sign and magnitude that floats are stored as; -0 and 0 are one.
std::int64_t position_of(std::uint64_t bits, DType dtype) {
  const int sign_bit = static_cast<int>(base::itemsize(dtype) * 8) - 1;
  const auto magnitude = static_cast<std::int64_t>(bits & ((std::uint64_t{1} << sign_bit) - 1));
  return (bits >> sign_bit) != 0 ? -magnitude : magnitude;
}

std::uint64_t distance(std::int64_t a, std::int64_t b) {
  const auto [low, high] = std::minmax(a, b);
  return static_cast<std::uint64_t>(high) - static_cast<std::uint64_t>(low);
}

bool is_within(double a, double b, double rtol) {
  if (a == b || (std::isnan(a) && std::isnan(b))) return true;
  if (std::isinf(a) || std::isinf(b)) return false;
  return std::abs(a - b) <= rtol * std::abs(a);
}

// Of two elements of the tensors that are compared.
class Pairs {
 public:
  Pairs(const HostTensor& a, const HostTensor& b, const Equality& equality)
      : a_(a), b_(b), equality_(equality), is_same_dtype_(a.dtype() == b.dtype()),
        is_integer_(!base::is_floating(a.dtype()) && !base::is_floating(b.dtype())) {}

  bool is_equal(std::int64_t i) const {
    if (is_same_dtype_ && equality_.is_bitwise) return bits_of(a_, i) == bits_of(b_, i);
    // As doubles, large integers that differ would be one.
    if (is_integer_ && a_.int_at(i) == b_.int_at(i)) return true;
    if (is_integer_ && equality_.rtol == 0) return false;
    return is_within(a_.at(i), b_.at(i), equality_.is_bitwise ? 0 : equality_.rtol);
  }

  double error(std::int64_t i) const {
    const double a = a_.at(i);
    const double b = b_.at(i);
    if (a == b || (std::isnan(a) && std::isnan(b))) return 0;  // infinities too
    return std::abs(a - b);
  }

  bool has_ulp() const { return is_same_dtype_ && base::is_floating(a_.dtype()); }
  std::uint64_t ulp(std::int64_t i) const {
    if (std::isnan(a_.at(i)) || std::isnan(b_.at(i))) return 0;
    return distance(position_of(bits_of(a_, i), a_.dtype()), position_of(bits_of(b_, i), a_.dtype()));
  }

 private:
  const HostTensor& a_;
  const HostTensor& b_;
  const Equality& equality_;
  bool is_same_dtype_;
  bool is_integer_;
};

double ratio(double error_squares, double squares) {
  if (error_squares == 0) return 0;
  return squares == 0 ? std::numeric_limits<double>::infinity() : std::sqrt(error_squares / squares);
}

}  // namespace

Figures compare(const HostTensor& a, const HostTensor& b, const Equality& equality) {
  MOECHECK_REQUIRE(a.shape() == b.shape(), base::shape_text(a.shape()) + " and " + base::shape_text(b.shape()));
  Figures figures;
  figures.elements = a.numel();
  const Pairs pairs(a, b, equality);
  if (pairs.has_ulp()) figures.max_ulp = 0;
  if (base::same_bytes(a, b)) return figures;
  double error_squares = 0;
  double squares = 0;
  for (std::int64_t i = 0; i < figures.elements; ++i) {
    const double error = pairs.error(i);
    const double value = a.at(i);
    error_squares += error * error;
    squares += value * value;
    // NaN stays: a larger error behind it must not hide it.
    if (std::isnan(error) || error > figures.max_abs) figures.max_abs = error;
    if (error != 0 && figures.max_ulp) figures.max_ulp = std::max(*figures.max_ulp, pairs.ulp(i));
    if (pairs.is_equal(i)) continue;
    if (figures.different++ == 0) figures.first_different = i;
  }
  figures.relative_l2 = ratio(error_squares, squares);
  return figures;
}

}  // namespace moecheck::checkpoint
