// What differs between two checkpoints: names, shapes, dtypes, values, and experts that stand at other places.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "harness/checkpoint/checkpoint.h"
#include "harness/checkpoint/expert_moves.h"
#include "harness/checkpoint/figures.h"

namespace moecheck::checkpoint {

// The most important first.
enum class DifferenceKind { kMissing, kExtra, kShape, kDType, kValues };   // missing: in A only; extra: in B only

std::string_view kind_name(DifferenceKind kind);   // "missing", "extra", "shape", "dtype", "values"

struct TensorSide {
  base::DType dtype = base::DType::kF32;
  base::Shape shape;
};

struct TensorDifference {
  std::string name;
  DifferenceKind kind = DifferenceKind::kValues;
  std::optional<TensorSide> a;        // none: not there
  std::optional<TensorSide> b;
  std::optional<Figures> figures;     // where both have one shape
  bool is_explained = false;          // by moved experts
};

// One group of experts whose tensors moved alike.
struct ExpertDifference {
  std::string group;                  // "model.layers.0.mlp.experts"
  std::vector<std::string> parts;     // "gate_proj.weight", ... that moved so
  bool is_whole_group = true;         // every part of the group did
  ExpertMatch match;
};

struct Diff {
  std::vector<TensorDifference> tensors;   // by kind, then name
  std::vector<ExpertDifference> experts;   // by group
  std::int64_t num_tensors = 0;            // names in A or B
  std::int64_t num_compared = 0;           // names in both, of one shape
  std::int64_t num_elements = 0;           // that were compared

  bool is_equal() const { return tensors.empty(); }
  std::int64_t num_of(DifferenceKind kind) const;
  std::int64_t num_explained() const;
};

// A tensor of another dtype differs, whatever its values. Memory: a sharded tensor of each side at a time, and the experts of
// one part of one group.
// Requires: neither checkpoint has a problem.
Diff diff(const Checkpoint& a, const Checkpoint& b, const Equality& equality);

}  // namespace moecheck::checkpoint
