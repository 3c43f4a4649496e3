#include "harness/check/digests.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <optional>

#include <fmt/format.h>

#include "harness/check/compare.h"
#include "harness/trace/layout.h"
#include "harness/trace/tap_points.h"

namespace moecheck::check {
namespace {

using model::Dim;

constexpr std::string_view kOutput = "output/y_TD";
constexpr std::array<std::string_view, 5> kDigested = {kOutput, "grad/x_TD", "grad/router/w_ED", "grad/experts/gate_up_EGD", "grad/experts/down_EDF"};

// Finalizer of MurmurHash3, a bijection.
std::uint64_t mix(std::uint64_t x) {
  x = (x ^ (x >> 33)) * 0xff51afd7ed558ccdULL;
  x = (x ^ (x >> 33)) * 0xc4ceb9fe1a85ec53ULL;
  return x ^ (x >> 33);
}

// A rank's part of a tap and what it should be; both of one shape.
struct Part {
  Dim rank = 0;
  const base::HostTensor* got = nullptr;
  const trace::ExpectedTap* expected = nullptr;
};

bool is_param(std::string_view tap) { return trace::find_tap(tap)->kind == trace::TapKind::kParam; }

std::optional<Part> part_of(const cases::Case& one, std::string_view tap, const trace::ExpectedRank& expected, const trace::RankTrace& rank) {
  const base::HostTensor* got = rank.tensor(tap);
  const auto found = expected.taps.find(tap);
  if (got == nullptr || found == expected.taps.end()) return std::nullopt;
  const trace::ExpectedTap& want = found->second;
  const auto shape = trace::declared_shape(one.problem, tap, rank.rank, trace::shown_sizes(one.problem, rank));
  if (shape != got->shape() || got->shape() != want.value.shape() || got->dtype() != store_of(one, tap)) return std::nullopt;
  if (std::ranges::find(want.is_comparable, 0) != want.is_comparable.end()) return std::nullopt;
  return Part{rank.rank, got, &want};
}

// Parts of all ranks; none if one of them cannot be used.
std::vector<Part> parts_of(const cases::Case& one, std::string_view tap, const trace::Expected& expected, const trace::Trace& observed) {
  std::vector<Part> parts;
  for (std::size_t r = 0; r < observed.ranks.size(); ++r) {
    const auto part = part_of(one, tap, expected.ranks[r], observed.ranks[r]);
    if (!part) return {};
    parts.push_back(*part);
  }
  return parts;
}

// No partial sum of any order can have left the dtype's digits. The unit is that of the whole tensor, so that layouts agree on it.
bool cannot_round(const cases::Case& one, std::string_view tap, const std::vector<Part>& parts) {
  double unit = 0;
  for (const Part& part : parts) {
    const double own = unit_of(*part.expected);
    if (own > 0) unit = unit > 0 ? std::min(unit, own) : own;
  }
  const double largest = unit / base::unit_roundoff(store_of(one, tap));
  return std::ranges::all_of(parts, [&](const Part& part) {
    const base::HostTensor& magnitude = part.expected->magnitude;
    for (Dim i = 0; i < part.got->numel(); ++i) {
      const double size = magnitude.numel() == part.got->numel() ? magnitude.at(i) : std::fabs(part.expected->value.at(i));
      if (!(size <= largest)) return false;
    }
    return true;
  });
}

// Global indices along each dim that the rank holds.
std::vector<std::vector<Dim>> indices_of(const cases::Case& one, std::string_view tap, const Part& part) {
  std::vector<std::vector<Dim>> indices;
  for (std::size_t d = 0; d < part.got->shape().size(); ++d) {
    if (is_param(tap)) {
      indices.push_back(trace::declared_indices(one.problem, tap, part.rank, static_cast<Dim>(d)));
      continue;
    }
    std::vector<Dim>& held = indices.emplace_back(static_cast<std::size_t>(part.got->dim(d)));
    for (std::size_t i = 0; i < held.size(); ++i) held[i] = static_cast<Dim>(i) + (d == 0 ? one.problem.first_token(part.rank) : 0);
  }
  return indices;
}

base::Shape global_shape(const cases::Case& one, std::string_view tap) {
  if (is_param(tap)) return trace::global_param_shape(one.problem.model, tap);
  return {one.problem.total_tokens(), one.problem.model.d_model};
}

// Sum over the elements of a hash of index and value; none if one is not finite.
std::optional<std::uint64_t> digest_of_part(const cases::Case& one, std::string_view tap, const Part& part) {
  const auto indices = indices_of(one, tap, part);
  const base::Shape global = global_shape(one, tap);
  std::uint64_t sum = 0;
  for (Dim i = 0; i < part.got->numel(); ++i) {
    Dim rest = i, index = 0, stride = 1;
    for (std::size_t d = indices.size(); d-- > 0;) {
      const auto size = static_cast<Dim>(indices[d].size());
      index += stride * indices[d][static_cast<std::size_t>(rest % size)];
      stride *= global[d];
      rest /= size;
    }
    const double value = part.got->at(i) + 0.0;   // -0 becomes 0
    if (!std::isfinite(value)) return std::nullopt;
    sum += mix(mix(static_cast<std::uint64_t>(index) + 1) ^ std::bit_cast<std::uint64_t>(value));
  }
  return sum;
}

std::optional<std::uint64_t> digest_of(const cases::Case& one, std::string_view tap, const std::vector<Part>& parts) {
  std::uint64_t sum = 0;
  Dim num_elements = 0;
  for (const Part& part : parts) {
    const auto replicas = is_param(tap) ? trace::replica_group(one.problem, tap, part.rank) : trace::token_group(one.problem, part.rank);
    if (replicas.front() != part.rank) continue;
    const auto digest = digest_of_part(one, tap, part);
    if (!digest) return std::nullopt;
    sum += *digest;
    num_elements += part.got->numel();
  }
  const Dim whole = base::num_elements(global_shape(one, tap));
  MOECHECK_REQUIRE(num_elements == whole, fmt::format("{} elements of {} make up {}", num_elements, whole, tap));
  if (whole == 0) return std::nullopt;
  return sum;
}

}  // namespace

std::map<std::string, std::string> exact_digests(const cases::Case& one, const trace::Expected& expected, const trace::Trace& observed) {
  std::map<std::string, std::string> digests;
  if (one.problem.values != model::Values::kExact) return digests;
  MOECHECK_REQUIRE(expected.ranks.size() == observed.ranks.size());
  for (const std::string_view tap : kDigested) {
    const std::vector<Part> parts = parts_of(one, tap, expected, observed);
    if (parts.empty() || (tap != kOutput && !cannot_round(one, tap, parts))) continue;
    if (const auto digest = digest_of(one, tap, parts)) digests.emplace(tap, fmt::format("{:016x}", *digest));
  }
  return digests;
}

}  // namespace moecheck::check
