#include "reference/observed_rank.h"

#include <algorithm>
#include <numeric>

#include "harness/trace/layout.h"

namespace moecheck::reference {
namespace {

using base::HostTensor;
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

// By global token: a rank of the layer group has it.
std::vector<bool> tokens_of_layer_group(const Problem& problem, Dim rank) {
  std::vector<bool> is_theirs(static_cast<std::size_t>(problem.total_tokens()), false);
  for (const Dim member : problem.layer_group(rank))
    std::fill_n(is_theirs.begin() + problem.first_token(member), problem.num_tokens(member), true);
  return is_theirs;
}

std::optional<KeyedRows> decode_rows(const Problem& problem, const trace::RankTrace& trace, std::string_view tap,
                                     const std::vector<bool>& is_token) {
  const auto keys = ids_with_shape(trace, tap, kAny, 3);
  if (!keys) return std::nullopt;
  KeyedRows rows;
  for (Dim r = 0; r < keys->rows(); ++r) {
    const RoutedRow row{(*keys)(r, 0), (*keys)(r, 1), (*keys)(r, 2)};
    rows.keys.push_back(row);
    rows.is_routed.push_back(is_within(row.token, static_cast<Dim>(is_token.size())) && is_token[static_cast<std::size_t>(row.token)] &&
                             is_within(row.slot, problem.model.top_k) && is_within(row.expert, problem.model.num_experts));
  }
  return rows;
}

void decode_gradients(const model::ModelSpec& spec, Dim num_rows, ObservedRank& into) {
  const trace::RankTrace& trace = *into.trace;
  into.grad_out_RD = matrix_with_shape(trace, "grad/out_RD", num_rows, spec.d_model);
  into.grad_act_RF = matrix_with_shape(trace, "grad/act_RF", num_rows, kAny);
  into.grad_gate_up_RG = matrix_with_shape(trace, "grad/gate_up_RG", num_rows, kAny);
  into.grad_in_RD = matrix_with_shape(trace, "grad/in_RD", num_rows, spec.d_model);
  into.grad_scores_TK = matrix_with_shape(trace, "grad/scores_TK", into.num_tokens, spec.top_k);
  into.grad_logits_TE = matrix_with_shape(trace, "grad/logits_TE", into.num_tokens, spec.num_experts);
}

}  // namespace

ObservedRank decode_rank(const Problem& problem, Dim rank, const trace::RankTrace& trace) {
  const model::ModelSpec& spec = problem.model;
  ObservedRank seen;
  seen.rank = rank;
  seen.first_token = problem.first_token(rank);
  seen.num_tokens = problem.num_tokens(rank);
  seen.trace = &trace;
  seen.x_TD = matrix_with_shape(trace, "input/x_TD", seen.num_tokens, spec.d_model);
  seen.logits_TE = matrix_with_shape(trace, "router/logits_TE", seen.num_tokens, spec.num_experts);
  seen.ids_TK = ids_with_shape(trace, "router/ids_TK", seen.num_tokens, spec.top_k);
  seen.scores_TK = matrix_with_shape(trace, "router/scores_TK", seen.num_tokens, spec.top_k);
  const std::vector<bool> is_token = tokens_of_layer_group(problem, rank);
  seen.rows_R = decode_rows(problem, trace, "dispatch/rows_R3", is_token);
  const Dim num_rows = seen.rows_R ? static_cast<Dim>(seen.rows_R->keys.size()) : kAny;
  seen.in_RD = matrix_with_shape(trace, "experts/in_RD", num_rows, spec.d_model);
  seen.gate_up_RG = matrix_with_shape(trace, "experts/gate_up_RG", num_rows, kAny);
  seen.act_RF = matrix_with_shape(trace, "experts/act_RF", num_rows, kAny);
  seen.out_RD = matrix_with_shape(trace, "experts/out_RD", num_rows, spec.d_model);
  seen.combined_N = decode_rows(problem, trace, "combine/rows_N3", is_token);
  // RankTrace::rank is the subject's word; tokens that it does not list are those of the rank that it is.
  trace::RankTrace listed;
  listed.rank = rank;
  if (const trace::Tapped* tokens = trace.find("dispatch/tokens_S")) listed.taps.emplace("dispatch/tokens_S", *tokens);
  seen.slot_tokens_S = trace::slot_tokens(problem, listed);
  seen.partial_SD = matrix_with_shape(trace, "combine/partial_TD", static_cast<Dim>(seen.slot_tokens_S.size()), spec.d_model);
  decode_gradients(spec, num_rows, seen);
  return seen;
}

std::optional<std::vector<Dim>> computed_columns(const Problem& problem, Dim rank, std::string_view param, Dim dim, Dim shown) {
  const Dim size = trace::global_param_shape(problem.model, param).at(static_cast<std::size_t>(dim));
  auto columns = model::held_indices(trace::compute_cuts(problem, param), size, dim, problem.mesh, rank);
  if (shown == size) {
    columns.resize(static_cast<std::size_t>(size));
    std::iota(columns.begin(), columns.end(), Dim{0});
  }
  if (static_cast<Dim>(columns.size()) != shown) return std::nullopt;
  return columns;
}

bool are_experts(const IdMatrix& ids_TK, Dim token, Dim num_experts) {
  for (Dim k = 0; k < ids_TK.cols(); ++k)
    if (!is_within(ids_TK(token, k), num_experts)) return false;
  return true;
}

}  // namespace moecheck::reference
