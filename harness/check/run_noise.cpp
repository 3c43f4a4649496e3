#include "harness/check/run_noise.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "harness/check/compare.h"
#include "harness/check/join.h"
#include "harness/tolerance/envelope.h"
#include "harness/trace/tap_points.h"

namespace moecheck::check {
namespace {

constexpr std::string_view kKeys = "dispatch/rows_R3";
constexpr std::string_view kOptimizer = "optim/";
constexpr double kInfinity = std::numeric_limits<double>::infinity();

const base::HostTensor* shown(const trace::Trace& trace, std::string_view tap, std::size_t rank) {
  return rank < trace.ranks.size() ? trace.ranks[rank].tensor(tap) : nullptr;
}

std::size_t num_ranks(const trace::Trace& a, const trace::Trace& b) { return std::max(a.ranks.size(), b.ranks.size()); }

// Row i of the result is row order[i].
base::HostTensor reordered(const base::HostTensor& tensor, const std::vector<model::Dim>& order) {
  base::HostTensor rows(tensor.dtype(), tensor.shape());
  const std::size_t size = tensor.num_bytes() / order.size();
  for (std::size_t i = 0; i < order.size(); ++i)
    std::memcpy(rows.mutable_bytes().data() + i * size, tensor.bytes().data() + static_cast<std::size_t>(order[i]) * size, size);
  return rows;
}

// Empty: the rows are in order, or show no keys.
std::vector<model::Dim> key_order(const trace::RankTrace& rank) {
  const base::HostTensor* keys = rank.tensor(kKeys);
  if (keys == nullptr || keys->dtype() != base::DType::kI64 || keys->shape().size() != 2 || keys->dim(1) != 3) return {};
  const auto sorted_by = [&](model::Dim row) {
    const RowKey key = row_key(*keys, row);
    return std::pair(is_padding(key), key);
  };
  std::vector<model::Dim> order(static_cast<std::size_t>(keys->dim(0)));
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, {}, sorted_by);
  return std::ranges::is_sorted(order) ? std::vector<model::Dim>{} : order;
}

// Of what is finite.
struct Size {
  double root_mean_square = 1;   // 1 where all is zero: then any difference is as large as it looks
  double largest = 0;
  double roundoff = 0;           // that values have been through; 0 for what is counted, not computed
};

double roundoff_of(const base::HostTensor& tensor, base::DType dtype) {
  const double own = base::unit_roundoff(tensor.dtype());
  return own == 0 || tensor.dtype() == base::DType::kF64 ? own : std::max(own, base::unit_roundoff(dtype));
}

Size size_of(std::string_view tap, const std::vector<const trace::Trace*>& traces, base::DType dtype) {
  Size size;
  double squares = 0, count = 0;
  for (const trace::Trace* trace : traces)
    for (std::size_t r = 0; r < trace->ranks.size(); ++r) {
      const base::HostTensor* tensor = shown(*trace, tap, r);
      if (tensor == nullptr) continue;
      size.roundoff = std::max(size.roundoff, roundoff_of(*tensor, dtype));
      for (std::int64_t i = 0; i < tensor->numel(); ++i)
        if (const double value = std::fabs(tensor->at(i)); std::isfinite(value)) {
          squares += value * value;
          size.largest = std::max(size.largest, value);
          ++count;
        }
    }
  if (squares > 0) size.root_mean_square = std::sqrt(squares / count);
  return size;
}

}  // namespace

Difference difference(const base::HostTensor* a, const base::HostTensor* b) {
  Difference found;
  if (a == nullptr && b == nullptr) return found;
  found.is_comparable = a != nullptr && b != nullptr && a->dtype() == b->dtype() && a->shape() == b->shape();
  if (!found.is_comparable || base::same_bytes(*a, *b)) return found;
  for (std::int64_t i = 0; i < a->numel(); ++i) {
    if (same_element_bits(*a, i, *b, i)) continue;
    const double error = std::fabs(a->at(i) - b->at(i));
    found.squares += error * error;
    found.fourth_powers += error * error * error * error;
    if (found.count++ == 0 || (!std::isnan(found.largest) && !(error <= found.largest))) {
      found.worst = i;
      found.largest = error;
    }
  }
  return found;
}

std::string_view kind_of(std::string_view tap) {
  if (!tap.starts_with(kOptimizer)) return tap.substr(0, tap.find('/'));
  const auto slash = tap.find('/', kOptimizer.size());
  return slash == std::string_view::npos ? "optim/grad" : tap.substr(0, slash);
}

trace::Trace in_key_order(const trace::Trace& batch) {
  trace::Trace sorted = batch;
  for (trace::RankTrace& rank : sorted.ranks) {
    const std::vector<model::Dim> order = key_order(rank);
    for (auto& [name, tapped] : rank.taps) {
      const trace::TapPoint* point = trace::find_tap(name);
      const bool is_of_rows = point != nullptr && point->kind == trace::TapKind::kRows && !tapped.tensor.shape().empty();
      if (!order.empty() && is_of_rows && tapped.tensor.dim(0) == static_cast<model::Dim>(order.size())) tapped.tensor = reordered(tapped.tensor, order);
    }
  }
  return sorted;
}

NoiseScale::NoiseScale(const std::vector<std::string_view>& taps, const std::vector<const trace::Trace*>& controls, base::DType dtype) {
  for (const std::string_view tap : taps) {
    const Size size = size_of(tap, controls, dtype);
    taps_.push_back({tap, size.root_mean_square});
    of_rounding_ = std::max(of_rounding_, tolerance::rounding_distance(size.roundoff, size.largest) / size.root_mean_square);
  }
}

Apart NoiseScale::apart(const trace::Trace& a, const trace::Trace& b) const {
  Apart apart;
  double squares = 0, fourth_powers = 0, largest = 0;
  for (const ScaledTap& one : taps_)
    for (std::size_t r = 0; r < num_ranks(a, b); ++r) {
      const Difference found = difference(shown(a, one.tap, r), shown(b, one.tap, r));
      const double share = found.is_comparable ? found.squares / (one.size * one.size) : kInfinity;
      squares += share;
      fourth_powers += found.fourth_powers / std::pow(one.size, 4);
      if (share <= largest) continue;   // a NaN is no less
      apart.tap = one.tap;
      apart.rank = r;
      largest = std::isnan(share) ? kInfinity : share;
    }
  apart.distance = std::sqrt(squares);
  apart.num_elements = fourth_powers > 0 ? squares * squares / fourth_powers : 0;
  return apart;
}

}  // namespace moecheck::check
