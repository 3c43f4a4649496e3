#include "harness/check/compare.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "harness/tolerance/bounds.h"
#include "harness/trace/tap_points.h"

namespace moecheck::check {
namespace {

bool has_row(const std::vector<std::uint8_t>& is_comparable, std::int64_t row) {
  const auto index = static_cast<std::size_t>(row);
  return index >= is_comparable.size() || is_comparable[index] != 0;
}

// NaN beats every number.
bool is_worse(double used, double than) { return std::isnan(used) ? !std::isnan(than) : used > than; }

}  // namespace

base::DType store_of(const cases::Case& one, std::string_view tap) {
  const trace::TapPoint* point = trace::find_tap(tap);
  MOECHECK_REQUIRE(point != nullptr, std::string(tap));
  switch (point->element) {
    case trace::ElementKind::kFp32: return base::DType::kF32;
    case trace::ElementKind::kFp64: return base::DType::kF64;
    case trace::ElementKind::kInteger: return base::DType::kI64;
    case trace::ElementKind::kStore: break;
  }
  return one.problem.dtype;
}

ElementBounds::ElementBounds(const trace::ExpectedTap& expected, const CompareRule& rule)
    : expected_(expected), is_exact_(rule.is_exact), has_magnitude_(expected.magnitude.numel() == expected.value.numel()),
      has_stored_(expected.stored.numel() == expected.value.numel()) {
  const auto stage = tolerance::stage_of_tap(rule.tap);
  if (stage) bound_.emplace(*stage, rule.store, expected.terms, expected.roundings);
  if (rule.exact_unit != 0) exact_limit_ = rule.exact_unit / base::unit_roundoff(rule.store);
}

double ElementBounds::at(std::int64_t i) const {
  const double value = expected_.value.at(i);
  const double magnitude = has_magnitude_ ? expected_.magnitude.at(i) : std::fabs(value);
  if (!bound_ || (is_exact_ && magnitude <= exact_limit_)) return 0;
  return bound_->of(value, magnitude, has_stored_ ? expected_.stored.at(i) : 0);
}

double unit_of(const trace::ExpectedTap& expected) {
  int lowest = std::numeric_limits<int>::max();
  for (std::int64_t i = 0; i < expected.value.numel(); ++i) {
    // Exact values carry a trace of silu and softmax in fp64, far below any dtype's digits.
    const double value = base::round_to(base::DType::kF32, expected.value.at(i));
    if (value == 0 || !std::isfinite(value)) continue;
    int exponent = 0;
    double fraction = std::fabs(std::frexp(value, &exponent));
    while (fraction != std::floor(fraction)) {
      fraction *= 2;
      --exponent;
    }
    lowest = std::min(lowest, exponent);
  }
  return lowest == std::numeric_limits<int>::max() ? 0 : std::ldexp(1.0, lowest);
}

void set_figures(const Comparison& comparison, record::Finding& finding) {
  finding.want = comparison.want;
  finding.got = comparison.got;
  finding.measured = comparison.measured;
  finding.bound = comparison.bound;
  finding.used = comparison.used;
  finding.compared = comparison.compared;
}

namespace {

// Expected: a value and is_comparable. bound_at(i) is the bound of element i.
template <typename Expected, typename BoundAt>
Comparison compare_elements(const base::HostTensor& got, const Expected& expected, base::DType store, BoundAt bound_at) {
  Comparison result;
  const std::int64_t rows = got.shape().empty() ? 1 : got.dim(0);
  const std::int64_t columns = rows == 0 ? 0 : got.numel() / rows;
  for (std::int64_t row = 0; row < rows; ++row) {
    if (!has_row(expected.is_comparable, row)) {
      ++result.skipped_rows;
      continue;
    }
    std::int64_t over = 0;
    for (std::int64_t i = row * columns; i < (row + 1) * columns; ++i) {
      const double value = expected.value.at(i);
      if (!std::isfinite(value)) continue;
      const double bound = bound_at(i);
      const double want = bound == 0 ? base::round_to(store, value) : value;
      const double seen = got.at(i);
      const double error = std::fabs(seen - want);
      const double used = tolerance::used(error, bound);
      ++result.compared;
      if (!tolerance::within(error, bound)) ++over;
      if (seen != 0 || want != 0) result.all_zero = false;
      if (result.worst < 0 || is_worse(used, result.used)) {
        result.worst = i;
        result.want = value;
        result.got = seen;
        result.measured = error;
        result.bound = bound;
        result.used = used;
      }
    }
    ++result.num_rows;
    result.elements_over += over;
    result.rows_over += over > 0 ? 1 : 0;
  }
  return result;
}

}  // namespace

Comparison compare_tap(const base::HostTensor& got, const trace::ExpectedTap& expected, const CompareRule& rule) {
  MOECHECK_REQUIRE(got.shape() == expected.value.shape(), std::string(rule.tap));
  const ElementBounds bounds(expected, rule);
  return compare_elements(got, expected, rule.store, [&](std::int64_t i) { return bounds.at(i); });
}

Comparison compare_whole(const base::HostTensor& got, const trace::WholeTap& expected, base::DType store) {
  MOECHECK_REQUIRE(got.shape() == expected.value.shape(), base::shape_text(got.shape()));
  return compare_elements(got, expected, store, [&](std::int64_t i) { return expected.bound.at(i); });
}

bool same_element_bits(const base::HostTensor& a, std::int64_t at_a, const base::HostTensor& b, std::int64_t at_b) {
  if (a.dtype() != b.dtype()) return false;
  const std::size_t size = base::itemsize(a.dtype());
  const std::byte* in_a = a.bytes().data() + static_cast<std::size_t>(at_a) * size;
  const std::byte* in_b = b.bytes().data() + static_cast<std::size_t>(at_b) * size;
  return std::memcmp(in_a, in_b, size) == 0;
}

}  // namespace moecheck::check
