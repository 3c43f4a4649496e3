// The layout that a case declares: which part of which tensor belongs on which rank. Derived from the mesh alone; what a
// subject reports about its placements is a claim to be checked, never the yardstick.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "harness/base/host_tensor.h"
#include "harness/model/placement.h"
#include "harness/model/problem.h"

namespace moecheck::check {

using model::Dim;

// The experts that a rank holds: contiguous, by its coordinate in ep.
struct LocalExperts {
  Dim first = 0;
  Dim count = 0;

  bool has(Dim expert) const { return expert >= first && expert < first + count; }
};
LocalExperts local_experts(const model::Problem& problem, Dim rank);

// How one mesh dimension cuts a parameter; replicated over all others.
struct DeclaredCut {
  std::string_view mesh_dim;
  model::Placement placement;
};
// The cuts of a param/* tap under the mesh; empty: replicated everywhere.
std::vector<DeclaredCut> declared_cuts(const model::Problem& problem, std::string_view tap);

// Global indices along dim `dim` of a param/* tap that the rank holds, in local order.
std::vector<Dim> declared_indices(const model::Problem& problem, std::string_view tap, Dim rank, Dim dim);

base::Shape global_param_shape(const model::ModelSpec& model, std::string_view tap);

// Shape of any tap on a rank. num_rows: R of that rank, which only the subject knows; -1 where it is not known, and then the
// first dim of a row tap is -1. None for a tap that the table does not have.
std::optional<base::Shape> declared_shape(const model::Problem& problem, std::string_view tap, Dim rank, Dim num_rows);

// Ranks that hold the same tokens, in order: those with the same data-parallel coordinate.
std::vector<Dim> token_group(const model::Mesh& mesh, Dim rank);
// Ranks that hold the same shard of a parameter, in order.
std::vector<Dim> replica_group(const model::Problem& problem, std::string_view tap, Dim rank);

}  // namespace moecheck::check
