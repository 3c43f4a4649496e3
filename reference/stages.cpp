#include "reference/stages.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <set>
#include <utility>

#include "reference/activation_sizes.h"
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

constexpr Dim kNoRow = -1;

}  // namespace

ExpectedTap make_tap(Dim rows, Dim columns, Dim terms) {
  return {base::HostTensor(base::DType::kF64, {rows, columns}), base::HostTensor(base::DType::kF64, {rows, columns}), terms,
          std::vector<std::uint8_t>(static_cast<std::size_t>(rows), 1)};
}

std::optional<ExpectedTap> if_any_input(ExpectedTap tap, const std::vector<std::uint8_t>& is_routed) {
  const auto is_set = [](std::uint8_t flag) { return flag != 0; };
  if (std::ranges::any_of(is_routed, is_set) && std::ranges::none_of(tap.is_comparable, is_set)) return std::nullopt;
  return tap;
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

std::optional<ExpectedTap> expect_in(const ObservedLayer& layer, const ObservedRank& seen) {
  if (!seen.rows_R || !seen.in_RD) return std::nullopt;
  ExpectedTap tap = make_tap(seen.in_RD->rows(), seen.in_RD->cols(), layer.weighs_before() ? 1 : 0);
  tap.is_comparable = seen.rows_R->is_routed;
  for (std::size_t i = 0; i < seen.rows_R->keys.size(); ++i) {
    if (tap.is_comparable[i] == 0) continue;
    const RoutedRow& key = seen.rows_R->keys[i];
    const auto x_D = layer.token_row(seen, key.token, &ObservedRank::x_TD);
    const auto weight = layer.weighs_before() ? layer.score_of(seen, key) : 1.0;
    tap.is_comparable[i] = x_D && weight;
    if (x_D && weight) view_of(tap.value).row(static_cast<Dim>(i)) = *weight * x_D->values();
  }
  view_of(tap.magnitude) = view_of(tap.value).cwiseAbs();
  return if_any_input(std::move(tap), seen.rows_R->is_routed);
}

std::optional<ExpectedTap> expect_act(const ObservedRank& seen, const model::Activation& activation) {
  if (!seen.gate_up_RG || !seen.act_RF || seen.gate_up_RG->cols() != 2 * seen.act_RF->cols() ||
      seen.gate_up_RG->rows() != seen.act_RF->rows())
    return std::nullopt;
  const Matrix<double> act_RF = swiglu(*seen.gate_up_RG, activation);
  ExpectedTap tap = make_tap(act_RF.rows(), act_RF.cols(), 1);
  view_of(tap.value) = act_RF;
  auto magnitude_RF = view_of(tap.magnitude);
  for (Dim r = 0; r < act_RF.rows(); ++r)
    for (Dim f = 0; f < act_RF.cols(); ++f)
      magnitude_RF(r, f) = activation_sizes((*seen.gate_up_RG)(r, f), (*seen.gate_up_RG)(r, act_RF.cols() + f), activation).act;
  tap.roundings = activation_stores(activation).forward;
  // Rows of nobody's expert may have been left unwritten.
  if (seen.rows_R) tap.is_comparable = seen.rows_R->is_routed;
  return tap;
}

namespace {

// Rows of slot_tokens_S by token; a token that is listed twice has no row that is its own.
std::map<Dim, Dim> slot_rows_of(const ObservedRank& seen) {
  std::map<Dim, Dim> row_of_token;
  for (std::size_t s = 0; s < seen.slot_tokens_S.size(); ++s) {
    const auto [entry, is_new] = row_of_token.emplace(seen.slot_tokens_S[s], static_cast<Dim>(s));
    if (!is_new) entry->second = kNoRow;
  }
  return row_of_token;
}

std::optional<Dim> slot_row_of(const std::map<Dim, Dim>& row_of_token, Dim token) {
  const auto found = row_of_token.find(token);
  if (found == row_of_token.end() || found->second == kNoRow) return std::nullopt;
  return found->second;
}

}  // namespace

std::optional<ExpectedTap> expect_partial(const ObservedLayer& layer, const ObservedRank& seen) {
  const KeyedRows* rows = layer.combined_rows(seen);
  if (rows == nullptr || !seen.partial_SD || (!seen.combined_N && !seen.out_RD)) return std::nullopt;
  ExpectedTap tap = make_tap(seen.partial_SD->rows(), seen.partial_SD->cols(), layer.problem().model.top_k);
  auto value_SD = view_of(tap.value);
  auto magnitude_SD = view_of(tap.magnitude);
  const std::map<Dim, Dim> row_of_token = slot_rows_of(seen);
  for (std::size_t s = 0; s < seen.slot_tokens_S.size(); ++s)
    tap.is_comparable[s] = slot_row_of(row_of_token, seen.slot_tokens_S[s]).has_value();
  for (std::size_t i = 0; i < rows->keys.size(); ++i) {
    const RoutedRow& key = rows->keys[i];
    const auto slot_row = slot_row_of(row_of_token, key.token);
    if (key.expert == kMaskedExpert || !slot_row) continue;
    const bool is_routed = rows->is_routed[i] != 0;
    const auto out_D = is_routed ? layer.combined_output(seen, i) : std::nullopt;
    const auto weight = layer.weighs_before() || !is_routed ? 1.0 : layer.score_of(seen, key);
    if (!out_D || !weight) {
      // A key that names a token, but no slot, expert or output: what the subject added to that token cannot be known.
      tap.is_comparable[static_cast<std::size_t>(*slot_row)] = 0;
      continue;
    }
    const auto weighted_D = (*weight * out_D->values()).eval();
    value_SD.row(*slot_row) += weighted_D;
    magnitude_SD.row(*slot_row) += weighted_D.cwiseAbs();
  }
  return tap;
}

namespace {

// Whether the rank combined every routed row of its own tokens over the whole hidden dim: then its partial sum is the output.
// Told from what was computed, not from the placement that the subject claims: one that forgot the reduction would claim that
// there is nothing to reduce.
bool combined_everything(const ObservedLayer& layer, const ObservedRank& seen, const KeyedRows& rows) {
  const model::Problem& problem = layer.problem();
  std::set<std::pair<Dim, Dim>> covered;
  for (std::size_t i = 0; i < rows.keys.size(); ++i) {
    if (rows.is_routed[i] == 0 || !seen.owns(rows.keys[i].token)) continue;
    const auto out_D = layer.combined_output(seen, i);
    const ObservedRank& computer = out_D ? *out_D->owner : seen;
    if (computer.act_RF ? computer.act_RF->cols() == problem.model.d_ff : !problem.cuts_experts())
      covered.emplace(rows.keys[i].token, rows.keys[i].slot);
  }
  return static_cast<Dim>(covered.size()) == seen.num_tokens * problem.model.top_k;
}

// The ranks whose partial sums make up the output of `seen`.
std::vector<const ObservedRank*> summands_of(const ObservedLayer& layer, const ObservedRank& seen, const trace::Tapped& partial) {
  if (const KeyedRows* rows = layer.combined_rows(seen)) {
    if (combined_everything(layer, seen, *rows)) return {&seen};
    return layer.layer_group(seen);
  }
  // Without rows there is only the subject's word.
  for (const model::Cut& cut : partial.cuts) {
    if (cut.placement.kind != model::PlacementKind::kPartial) continue;
    std::vector<const ObservedRank*> group;
    for (const Dim member : layer.problem().mesh.group(seen.rank, cut.mesh_dim)) group.push_back(layer.find(member));
    return group;
  }
  return {&seen};
}

}  // namespace

std::optional<ExpectedTap> expect_y(const ObservedLayer& layer, const ObservedRank& seen) {
  const trace::Tapped* partial = seen.trace->find("combine/partial_TD");
  if (partial == nullptr || !seen.partial_SD) return std::nullopt;
  if (!shows(seen, "output/y_TD", seen.num_tokens, seen.partial_SD->cols())) return std::nullopt;
  ExpectedTap tap = make_tap(seen.num_tokens, seen.partial_SD->cols(), 0);
  std::vector<Dim> num_summands(static_cast<std::size_t>(seen.num_tokens), 0);
  for (const ObservedRank* member : summands_of(layer, seen, *partial)) {
    if (member == nullptr || !member->partial_SD) return std::nullopt;
    const std::map<Dim, Dim> row_of_token = slot_rows_of(*member);
    for (Dim t = 0; t < seen.num_tokens; ++t) {
      const auto row = slot_row_of(row_of_token, seen.first_token + t);
      if (!row) continue;
      view_of(tap.value).row(t) += member->partial_SD->row(*row);
      view_of(tap.magnitude).row(t) += member->partial_SD->row(*row).cwiseAbs();
      tap.terms = std::max(tap.terms, ++num_summands[static_cast<std::size_t>(t)]);
    }
  }
  // Nobody's combine is about this token.
  for (std::size_t t = 0; t < num_summands.size(); ++t) tap.is_comparable[t] = num_summands[t] > 0;
  tap.terms = std::max(tap.terms, Dim{1});
  return tap;
}

}  // namespace moecheck::reference
