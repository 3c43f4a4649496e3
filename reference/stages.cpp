#include "reference/stages.h"

#include <algorithm>
#include <numeric>
#include <set>

#include "reference/bounded_product.h"
#include "reference/experts.h"
#include "reference/router.h"

namespace moecheck::reference {
namespace {

std::vector<Dim> first_indices(Dim size) {
  std::vector<Dim> indices(static_cast<std::size_t>(size));
  std::iota(indices.begin(), indices.end(), Dim{0});
  return indices;
}

bool shows(const ObservedRank& seen, std::string_view tap, Dim rows, Dim columns) {
  const base::HostTensor* tensor = seen.trace->tensor(tap);
  return tensor != nullptr && tensor->shape() == base::Shape{rows, columns};
}

// A key that says "not for this rank's experts": the row takes no part in the sum.
constexpr Dim kMasked = -1;

}  // namespace

ExpectedTap make_tap(Dim rows, Dim columns, Dim terms) {
  return {base::HostTensor(base::DType::kF64, {rows, columns}), base::HostTensor(base::DType::kF64, {rows, columns}), terms,
          std::vector<std::uint8_t>(static_cast<std::size_t>(rows), 1)};
}

Eigen::Map<Matrix<double>> view_of(base::HostTensor& tensor) {
  return {tensor.mutable_view<double>().data(), tensor.dim(0), tensor.dim(1)};
}

ExpectedTap expect_x(const Matrix<float>& generated_TD) {
  ExpectedTap tap = make_tap(generated_TD.rows(), generated_TD.cols(), 1);
  view_of(tap.value) = generated_TD.cast<double>();
  view_of(tap.magnitude) = generated_TD.cast<double>().cwiseAbs();
  return tap;
}

std::optional<ExpectedTap> expect_logits(const ObservedRank& seen, const Matrix<float>& w_router_ED) {
  if (!seen.x_TD || !seen.logits_TE) return std::nullopt;
  const auto experts = first_indices(w_router_ED.rows());
  const auto columns = first_indices(w_router_ED.cols());
  const BoundedMatrix logits_TE = bounded_product(*seen.x_TD, w_router_ED, {experts, columns});
  ExpectedTap tap = make_tap(seen.num_tokens, w_router_ED.rows(), w_router_ED.cols());
  view_of(tap.value) = logits_TE.value;
  view_of(tap.magnitude) = logits_TE.magnitude;
  return tap;
}

std::optional<ExpectedTap> expect_scores(const ObservedRank& seen, const model::ModelSpec& spec) {
  if (!seen.logits_TE || !seen.ids_TK || !seen.scores_TK) return std::nullopt;
  ExpectedTap tap = make_tap(seen.num_tokens, spec.top_k, spec.num_experts);
  IdMatrix ids_TK = *seen.ids_TK;
  for (Dim t = 0; t < seen.num_tokens; ++t) {
    if (are_experts(ids_TK, t, spec.num_experts)) continue;
    tap.is_comparable[static_cast<std::size_t>(t)] = 0;
    ids_TK.row(t).setZero();
  }
  const Matrix<double> scores_TK = scores_from_logits(*seen.logits_TE, ids_TK, spec);
  view_of(tap.value) = scores_TK;
  view_of(tap.magnitude) = scores_TK.cwiseAbs();
  return tap;
}

std::optional<ExpectedTap> expect_act(const ObservedRank& seen) {
  if (!seen.gate_up_RG || !seen.act_RF || seen.gate_up_RG->cols() != 2 * seen.act_RF->cols() ||
      seen.gate_up_RG->rows() != seen.act_RF->rows())
    return std::nullopt;
  const Matrix<double> act_RF = swiglu(*seen.gate_up_RG);
  ExpectedTap tap = make_tap(act_RF.rows(), act_RF.cols(), 1);
  view_of(tap.value) = act_RF;
  view_of(tap.magnitude) = act_RF.cwiseAbs();
  // Rows of nobody's expert may have been left unwritten.
  if (seen.rows_R) tap.is_comparable = seen.is_routed_R;
  return tap;
}

std::optional<ExpectedTap> expect_partial(const ObservedRank& seen, const model::ModelSpec& spec) {
  if (!seen.scores_TK || !seen.rows_R || !seen.out_RD || !seen.partial_TD) return std::nullopt;
  ExpectedTap tap = make_tap(seen.num_tokens, spec.d_model, spec.top_k);
  auto value_TD = view_of(tap.value);
  auto magnitude_TD = view_of(tap.magnitude);
  for (std::size_t i = 0; i < seen.rows_R->size(); ++i) {
    const RoutedRow& row = (*seen.rows_R)[i];
    if (seen.is_routed_R[i] == 0) {
      // A key that names a token, but no slot or expert: what the subject added to that token cannot be known.
      if (row.expert != kMasked && row.token >= 0 && row.token < seen.num_tokens)
        tap.is_comparable[static_cast<std::size_t>(row.token)] = 0;
      continue;
    }
    const auto weighted_D = (*seen.scores_TK)(row.token, row.slot) * seen.out_RD->row(static_cast<Dim>(i));
    value_TD.row(row.token) += weighted_D;
    magnitude_TD.row(row.token) += weighted_D.cwiseAbs();
  }
  return tap;
}

namespace {

// Whether the rank computed every routed row of its tokens over the whole hidden dim: then its partial sum is the output.
bool computed_everything(const ObservedRank& seen, const model::ModelSpec& spec) {
  std::set<std::pair<Dim, Dim>> covered;
  for (std::size_t row = 0; row < seen.rows_R->size(); ++row)
    if (seen.is_routed_R[row] != 0) covered.emplace((*seen.rows_R)[row].token, (*seen.rows_R)[row].slot);
  const bool is_whole_hidden = !seen.act_RF || seen.act_RF->cols() == spec.d_ff;
  return static_cast<Dim>(covered.size()) == seen.num_tokens * spec.top_k && is_whole_hidden;
}

// The ranks whose partial sums make up the output of `seen`. Told from what was computed, not from the placement that the
// subject claims: one that forgot the reduction would claim that there is nothing to reduce.
std::vector<Dim> summands_of(const ObservedRank& seen, const trace::Tapped& partial, const model::Problem& problem) {
  const model::Mesh& mesh = problem.mesh;
  if (!seen.rows_R)
    return partial.placement.kind == model::PlacementKind::kPartial ? mesh.group(seen.rank, partial.mesh_dim) : std::vector<Dim>{seen.rank};
  if (computed_everything(seen, problem.model)) return {seen.rank};
  std::vector<Dim> group;
  for (Dim rank = 0; rank < mesh.world_size(); ++rank)
    if (mesh.coordinate(rank, "dp") == mesh.coordinate(seen.rank, "dp")) group.push_back(rank);
  return group;
}

}  // namespace

std::optional<ExpectedTap> expect_y(const ObservedRank& seen, std::span<const ObservedRank> all, const model::Problem& problem) {
  const trace::Tapped* partial = seen.trace->find("combine/partial_TD");
  if (partial == nullptr || !seen.partial_TD) return std::nullopt;
  if (!shows(seen, "output/y_TD", seen.num_tokens, seen.partial_TD->cols())) return std::nullopt;
  const std::vector<Dim> group = summands_of(seen, *partial, problem);
  ExpectedTap tap = make_tap(seen.num_tokens, seen.partial_TD->cols(), static_cast<Dim>(group.size()));
  for (const Dim member : group) {
    if (member >= static_cast<Dim>(all.size())) return std::nullopt;
    const auto& summand_TD = all[static_cast<std::size_t>(member)].partial_TD;
    if (!summand_TD || summand_TD->rows() != seen.num_tokens) return std::nullopt;
    view_of(tap.value) += *summand_TD;
    view_of(tap.magnitude) += summand_TD->cwiseAbs();
  }
  return tap;
}

}  // namespace moecheck::reference
