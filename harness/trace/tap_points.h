// THE list of observable tensors, in stage order. Joins, the first diverging stage and the reports read this table.
#pragma once

#include <optional>
#include <span>
#include <string_view>

namespace moecheck::trace {

enum class TapKind {
  kParam,     // lies as a parameter does: local shard with placement
  kTokens,    // a row for each token of the rank (T), or of those that it sees in the dispatch (S)
  kRows,      // R routed rows; row i belongs to dispatch/rows[i]
  kCounts,
};

enum class ElementKind {
  kStore,     // the case's dtype
  kFp32,
  kFp64,
  kInteger,
};

struct TapPoint {
  std::string_view name;
  std::string_view dims;   // legend: harness/model/dims.h
  TapKind kind;
  std::string_view phase;  // which phase writes it
  std::string_view meaning;
  ElementKind element = ElementKind::kStore;
};

// Stage order; the position in this table is the order in which stages are blamed.
std::span<const TapPoint> tap_points();
const TapPoint* find_tap(std::string_view name);
// Position in tap_points(); the number of taps for an unknown name.
std::size_t stage_index(std::string_view name);

}  // namespace moecheck::trace
