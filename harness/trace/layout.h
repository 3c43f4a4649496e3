// The layout that a case declares: which part of which tensor belongs on which rank. Derived from the problem alone; what a
// subject reports about its placements is a claim to be checked, never the yardstick.
//
// Parameters. Experts: dim 0 over ep, or over ep and tp together (expert_tp=one); each cut by tp otherwise (gate_up strided, down
// row-wise); then dim 1 over fsdp. Everything else: over tp where a plan cuts it (attention), or dim 0 over all data-parallel
// ranks of fsdp (fsdp, and ep where tokens are sharded over it); replicated otherwise.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "harness/base/host_tensor.h"
#include "harness/model/placement.h"
#include "harness/model/problem.h"
#include "harness/trace/trace.h"

namespace moecheck::trace {

using model::Dim;

// The experts that a rank holds: contiguous, by its coordinate in the expert dimensions.
struct LocalExperts {
  Dim first = 0;
  Dim count = 0;

  bool has(Dim expert) const { return expert >= first && expert < first + count; }
};
LocalExperts local_experts(const model::Problem& problem, Dim rank);

// The parameter whose layout a tap of a parameter, its gradient or its optimizer state has: "param/router/w_ED" for
// "grad/router/w_ED"; the tap itself otherwise.
std::string_view parameter_of(std::string_view tap);

// How the mesh cuts a parameter, and all that lies as it does; empty: replicated everywhere.
std::vector<model::Cut> declared_cuts(const model::Problem& problem, std::string_view tap);

// The same while it is computed with: fsdp gathers on use.
std::vector<model::Cut> compute_cuts(const model::Problem& problem, std::string_view tap);

// Global indices along dim `dim` of such a tap that the rank holds, in local order.
std::vector<Dim> declared_indices(const model::Problem& problem, std::string_view tap, Dim rank, Dim dim);

base::Shape global_param_shape(const model::ModelSpec& model, std::string_view tap);

// Sizes that only the subject knows; -1 where it does not say.
struct ShownSizes {
  Dim rows = -1;          // R: rows of dispatch/rows_R3
  Dim slot_tokens = -1;   // S: of dispatch/tokens_S; T where that is not shown
  Dim combined = -1;      // N: rows of combine/rows_N3
};
ShownSizes shown_sizes(const model::Problem& problem, const RankTrace& rank);

// Shape of any tap on a rank; -1 in it stands for any size. None for a tap that the table does not have.
std::optional<base::Shape> declared_shape(const model::Problem& problem, std::string_view tap, Dim rank, const ShownSizes& sizes);

// Global indices of the tokens that a rank's dispatch/scores, dispatch/ids and combine/partial are about, in their order: those of
// dispatch/tokens_S, or its own.
std::vector<Dim> slot_tokens(const model::Problem& problem, const RankTrace& rank);

// Ranks that hold the same tokens, in order.
std::vector<Dim> token_group(const model::Problem& problem, Dim rank);
// Ranks that hold the same shard of a parameter, in order.
std::vector<Dim> replica_group(const model::Problem& problem, std::string_view tap, Dim rank);

}  // namespace moecheck::trace
