#include "reference/whole_tokens.h"

#include <algorithm>

namespace moecheck::reference {
namespace {

using tolerance::Stage;
using tolerance::StageBound;

const Matrix<double>* recorded_in(const ObservedRank& seen, TokenTap tap) { return seen.*tap ? &*(seen.*tap) : nullptr; }

bool is_zero(std::uint8_t flag) { return flag == 0; }

}  // namespace

WholeTokens::WholeTokens(const ObservedLayer& layer, const Matrix<float>* w_router_ED) : layer_(layer) {
  const model::Problem& problem = layer.problem();
  const Dim num_tokens = problem.total_tokens();
  x_SD_ = exactly(Matrix<double>::Zero(num_tokens, problem.model.d_model));
  ids_SK_ = IdMatrix::Zero(num_tokens, problem.model.top_k);
  is_known_.assign(static_cast<std::size_t>(num_tokens), 0);
  is_spoiled_.assign(static_cast<std::size_t>(problem.model.num_experts), 0);
  for (Dim t = 0; t < num_tokens; ++t) is_known_[static_cast<std::size_t>(t)] = take_token(t);
  take_logits(w_router_ED);
  take_scores();
  for (Dim t = 0; t < num_tokens; ++t)
    if (!is_known(t)) spoil(t);
}

// Every rank that holds the token shows the same row of it, as far as it shows the tap.
bool WholeTokens::agree(Dim token, TokenTap tap) const {
  const Matrix<double>* first = nullptr;
  Dim first_row = 0;
  for (const ObservedRank& seen : layer_.ranks()) {
    const Matrix<double>* shown = seen.owns(token) ? recorded_in(seen, tap) : nullptr;
    if (shown == nullptr) continue;
    if (first == nullptr) {
      first = shown;
      first_row = token - seen.first_token;
    } else if (shown->row(token - seen.first_token) != first->row(first_row)) {
      return false;
    }
  }
  return true;
}

bool WholeTokens::take_token(Dim token) {
  bool has_x = false, has_ids = false;
  for (const ObservedRank& seen : layer_.ranks()) {
    if (!seen.owns(token)) continue;
    const Dim row = token - seen.first_token;
    if (seen.x_TD && !has_x) x_SD_.value.row(token) = seen.x_TD->row(row);
    has_x = has_x || seen.x_TD.has_value();
    if (!seen.ids_TK) continue;
    if (!are_experts(*seen.ids_TK, row, layer_.problem().model.num_experts)) return false;
    if (has_ids && seen.ids_TK->row(row) != ids_SK_.row(token)) return false;
    ids_SK_.row(token) = seen.ids_TK->row(row);
    has_ids = true;
  }
  if (!has_x || !has_ids) return false;
  return agree(token, &ObservedRank::x_TD) && agree(token, &ObservedRank::scores_TK) && agree(token, &ObservedRank::logits_TE);
}

void WholeTokens::take_logits(const Matrix<float>* w_router_ED) {
  const model::Problem& problem = layer_.problem();
  logits_SE_ = recorded_rows(&ObservedRank::logits_TE, problem.model.num_experts);
  if (logits_SE_ || w_router_ED == nullptr) return;
  const StageBound stage(Stage::kMatmul, problem.dtype, problem.model.d_model, 0);
  logits_SE_ = stored(products(x_SD_, exactly(w_router_ED->cast<double>())), stage);
}

void WholeTokens::take_scores() {
  const model::Problem& problem = layer_.problem();
  own_scores_SK_ = exactly(Matrix<double>::Zero(x_SD_.value.rows(), problem.model.top_k));
  if (logits_SE_) own_scores_SK_ = scores_from_logits(*logits_SE_, ids_SK_, problem.model, problem.dtype);
  const auto shown = recorded_rows(&ObservedRank::scores_TK, problem.model.top_k);
  scores_SK_ = shown ? *shown : own_scores_SK_;
  if (!shown && !logits_SE_) std::ranges::fill(is_known_, std::uint8_t{0});
}

void WholeTokens::spoil(Dim token) {
  std::vector<Dim> experts;
  for (const ObservedRank& seen : layer_.ranks()) {
    if (!seen.owns(token)) continue;
    const Dim row = token - seen.first_token;
    // Nobody knows where the token went.
    if (!seen.ids_TK || !are_experts(*seen.ids_TK, row, layer_.problem().model.num_experts)) {
      std::ranges::fill(is_spoiled_, std::uint8_t{1});
      return;
    }
    for (Dim k = 0; k < seen.ids_TK->cols(); ++k) is_spoiled_[static_cast<std::size_t>((*seen.ids_TK)(row, k))] = 1;
  }
}

bool WholeTokens::are_all_known() const { return std::ranges::none_of(is_known_, is_zero); }

std::vector<RoutedRow> WholeTokens::rows_of(Dim expert) const {
  std::vector<RoutedRow> rows;
  for (Dim t = 0; t < ids_SK_.rows(); ++t)
    for (Dim k = 0; is_known(t) && k < ids_SK_.cols(); ++k)
      if (ids_SK_(t, k) == expert) rows.push_back({t, k, expert});
  return rows;
}

std::optional<Tracked> WholeTokens::recorded_rows(TokenTap tap, Dim columns) const {
  Matrix<double> rows_S = Matrix<double>::Zero(x_SD_.value.rows(), columns);
  std::vector<std::uint8_t> is_shown(static_cast<std::size_t>(rows_S.rows()), 0);
  for (const ObservedRank& seen : layer_.ranks()) {
    const Matrix<double>* shown = recorded_in(seen, tap);
    for (Dim t = 0; shown != nullptr && t < seen.num_tokens; ++t) {
      std::uint8_t& is_there = is_shown[static_cast<std::size_t>(seen.first_token + t)];
      if (is_there == 0) rows_S.row(seen.first_token + t) = shown->row(t);
      is_there = 1;
    }
  }
  if (std::ranges::any_of(is_shown, is_zero)) return std::nullopt;
  return recorded(rows_S, layer_.problem().dtype);
}

}  // namespace moecheck::reference
