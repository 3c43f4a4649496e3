// One rank's taps, decoded once and upcast to double; what does not have the shape of its tap is left out.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "harness/model/problem.h"
#include "harness/trace/trace.h"
#include "reference/dispatch.h"

namespace moecheck::reference {

// A key that says "not for this rank's experts": the row is padding.
constexpr Dim kMaskedExpert = -1;

// Rows by key; tokens are global indices within the batch.
struct KeyedRows {
  std::vector<RoutedRow> keys;
  std::vector<std::uint8_t> is_routed;  // keys[i] is a token of the layer group, a slot and an expert
};

struct ObservedRank {
  Dim rank = 0;
  Dim first_token = 0;  // global index of its first own token
  Dim num_tokens = 0;   // of its own, as the problem has it, not as the subject shows it
  const trace::RankTrace* trace = nullptr;

  // A row for each own token.
  std::optional<Matrix<double>> x_TD;
  std::optional<Matrix<double>> logits_TE;
  std::optional<IdMatrix> ids_TK;
  std::optional<Matrix<double>> scores_TK;
  // A row for each row that the rank computed.
  std::optional<KeyedRows> rows_R;
  std::optional<Matrix<double>> in_RD;
  std::optional<Matrix<double>> gate_up_RG;
  std::optional<Matrix<double>> act_RF;
  std::optional<Matrix<double>> out_RD;
  // What it combined: rows that came back to it, if it says so, into a row for each token of slot_tokens_S.
  std::optional<KeyedRows> combined_N;
  std::vector<Dim> slot_tokens_S;
  std::optional<Matrix<double>> partial_SD;

  // Gradients, where a backward was recorded.
  std::optional<Matrix<double>> grad_out_RD;
  std::optional<Matrix<double>> grad_act_RF;
  std::optional<Matrix<double>> grad_gate_up_RG;
  std::optional<Matrix<double>> grad_in_RD;
  std::optional<Matrix<double>> grad_scores_TK;
  std::optional<Matrix<double>> grad_logits_TE;

  bool owns(Dim token) const { return token >= first_token && token < first_token + num_tokens; }
};

ObservedRank decode_rank(const model::Problem& problem, Dim rank, const trace::RankTrace& trace);

// Global indices along dim `dim` of a parameter that the rank's `shown` columns of a row tap belong to: those that the layout
// gives it, or all of them if it computed the whole; nothing if `shown` is neither.
std::optional<std::vector<Dim>> computed_columns(const model::Problem& problem, Dim rank, std::string_view param, Dim dim, Dim shown);

// All ids of a token are experts.
bool are_experts(const IdMatrix& ids_TK, Dim token, Dim num_experts);

}  // namespace moecheck::reference
