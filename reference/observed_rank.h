// One rank's taps, decoded once and upcast to double; what does not have the shape of its tap is left out.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "harness/model/problem.h"
#include "harness/trace/trace.h"
#include "reference/dispatch.h"

namespace moecheck::reference {

struct ObservedRank {
  Dim rank = 0;
  Dim num_tokens = 0;  // as the problem has it, not as the subject shows it
  const trace::RankTrace* trace = nullptr;

  std::optional<Matrix<double>> x_TD;
  std::optional<Matrix<double>> logits_TE;
  std::optional<IdMatrix> ids_TK;
  std::optional<Matrix<double>> scores_TK;
  std::optional<std::vector<RoutedRow>> rows_R;
  std::vector<std::uint8_t> is_routed_R;  // rows_R[i] is within T, K and E
  std::optional<Matrix<double>> gate_up_RG;
  std::optional<Matrix<double>> act_RF;
  std::optional<Matrix<double>> out_RD;
  std::optional<Matrix<double>> partial_TD;

  // Gradients, where a backward was recorded.
  std::optional<Matrix<double>> grad_out_RD;
  std::optional<Matrix<double>> grad_act_RF;
  std::optional<Matrix<double>> grad_gate_up_RG;
  std::optional<Matrix<double>> grad_scores_TK;
  std::optional<Matrix<double>> grad_logits_TE;

  // Global indices of the columns that the tap's placement gives this rank; nothing if it fits neither `size` nor `columns`.
  std::optional<std::vector<Dim>> columns_of(std::string_view tap, Dim size, const model::Mesh& mesh) const;
};

ObservedRank decode_rank(const model::Problem& problem, Dim rank, const trace::RankTrace& trace);

// All ids of a token are experts.
bool are_experts(const IdMatrix& ids_TK, Dim token, Dim num_experts);

}  // namespace moecheck::reference
