#include "reference/observed_rank.h"

namespace moecheck::reference {
namespace {

using base::HostTensor;
using model::Placement;
using model::PlacementKind;
using model::Problem;

// A dimension that may have any size.
constexpr Dim kAny = -1;

const HostTensor* tensor_with_shape(const trace::RankTrace& trace, std::string_view tap, Dim rows, Dim columns) {
  const HostTensor* tensor = trace.tensor(tap);
  if (tensor == nullptr || tensor->shape().size() != 2) return nullptr;
  const bool fits = (rows == kAny || tensor->dim(0) == rows) && (columns == kAny || tensor->dim(1) == columns);
  return fits ? tensor : nullptr;
}

std::optional<Matrix<double>> matrix_with_shape(const trace::RankTrace& trace, std::string_view tap, Dim rows, Dim columns) {
  const HostTensor* tensor = tensor_with_shape(trace, tap, rows, columns);
  if (tensor == nullptr) return std::nullopt;
  return matrix_of<double>(*tensor);
}

std::optional<IdMatrix> ids_with_shape(const trace::RankTrace& trace, std::string_view tap, Dim rows, Dim columns) {
  const HostTensor* tensor = tensor_with_shape(trace, tap, rows, columns);
  if (tensor == nullptr || base::is_floating(tensor->dtype())) return std::nullopt;
  return ids_of(*tensor);
}

bool is_within(Dim index, Dim size) { return index >= 0 && index < size; }

void decode_rows(const Problem& problem, ObservedRank& into) {
  const auto keys = ids_with_shape(*into.trace, "dispatch/rows_R3", kAny, 3);
  if (!keys) return;
  into.rows_R.emplace();
  for (Dim r = 0; r < keys->rows(); ++r) {
    const RoutedRow row{(*keys)(r, 0), (*keys)(r, 1), (*keys)(r, 2)};
    into.rows_R->push_back(row);
    into.is_routed_R.push_back(is_within(row.token, into.num_tokens) && is_within(row.slot, problem.model.top_k) &&
                               is_within(row.expert, problem.model.num_experts));
  }
}

}  // namespace

ObservedRank decode_rank(const Problem& problem, Dim rank, const trace::RankTrace& trace) {
  const model::ModelSpec& spec = problem.model;
  ObservedRank seen;
  seen.rank = rank;
  seen.num_tokens = problem.num_tokens(rank);
  seen.trace = &trace;
  seen.x_TD = matrix_with_shape(trace, "input/x_TD", seen.num_tokens, spec.d_model);
  seen.logits_TE = matrix_with_shape(trace, "router/logits_TE", seen.num_tokens, spec.num_experts);
  seen.ids_TK = ids_with_shape(trace, "router/ids_TK", seen.num_tokens, spec.top_k);
  seen.scores_TK = matrix_with_shape(trace, "router/scores_TK", seen.num_tokens, spec.top_k);
  decode_rows(problem, seen);
  const Dim num_rows = seen.rows_R ? static_cast<Dim>(seen.rows_R->size()) : kAny;
  seen.gate_up_RG = matrix_with_shape(trace, "experts/gate_up_RG", num_rows, kAny);
  seen.act_RF = matrix_with_shape(trace, "experts/act_RF", num_rows, kAny);
  seen.out_RD = matrix_with_shape(trace, "experts/out_RD", num_rows, spec.d_model);
  seen.partial_TD = matrix_with_shape(trace, "combine/partial_TD", seen.num_tokens, spec.d_model);
  seen.grad_out_RD = matrix_with_shape(trace, "grad/out_RD", num_rows, spec.d_model);
  seen.grad_act_RF = matrix_with_shape(trace, "grad/act_RF", num_rows, kAny);
  seen.grad_gate_up_RG = matrix_with_shape(trace, "grad/gate_up_RG", num_rows, kAny);
  seen.grad_scores_TK = matrix_with_shape(trace, "grad/scores_TK", seen.num_tokens, spec.top_k);
  seen.grad_logits_TE = matrix_with_shape(trace, "grad/logits_TE", seen.num_tokens, spec.num_experts);
  return seen;
}

std::optional<std::vector<Dim>> ObservedRank::columns_of(std::string_view tap, Dim size, const model::Mesh& mesh) const {
  const trace::Tapped* tapped = trace->find(tap);
  if (tapped == nullptr || tapped->tensor.shape().size() != 2) return std::nullopt;
  Placement placement = tapped->placement;
  const bool is_sharded = placement.kind == PlacementKind::kShard || placement.kind == PlacementKind::kStridedShard;
  // Only columns are looked for: sharded rows come with keys, and a summand of a product that must stay whole says nothing.
  if (placement.kind == PlacementKind::kPartial) return std::nullopt;
  if (is_sharded && placement.dim == 0) placement = model::replicate();
  if (is_sharded && placement.dim > 1) return std::nullopt;
  const Dim pieces = placement.kind == PlacementKind::kReplicate ? 1 : mesh.size(tapped->mesh_dim);
  if (placement.blocks < 1 || size % (pieces * placement.blocks) != 0) return std::nullopt;
  auto columns = model::local_indices(placement, size, mesh.coordinate(rank, tapped->mesh_dim), pieces);
  if (static_cast<Dim>(columns.size()) != tapped->tensor.dim(1)) return std::nullopt;
  return columns;
}

bool are_experts(const IdMatrix& ids_TK, Dim token, Dim num_experts) {
  for (Dim k = 0; k < ids_TK.cols(); ++k)
    if (!is_within(ids_TK(token, k), num_experts)) return false;
  return true;
}

}  // namespace moecheck::reference
