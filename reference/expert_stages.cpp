#include "reference/expert_stages.h"

#include <numeric>
#include <utility>

#include "reference/bounded_product.h"
#include "reference/stages.h"

namespace moecheck::reference {
namespace {

std::vector<Dim> all_of(Dim size) {
  std::vector<Dim> indices(static_cast<std::size_t>(size));
  std::iota(indices.begin(), indices.end(), Dim{0});
  return indices;
}

}  // namespace

ExpertStage::Part& ExpertStage::part_with(std::vector<Dim> w_rows, std::vector<Dim> w_columns) {
  for (Part& part : parts_)
    if (part.w_rows == w_rows && part.w_columns == w_columns) return part;
  const auto experts = static_cast<std::size_t>(spec_.num_experts);
  return parts_.emplace_back(Part{std::move(w_rows), std::move(w_columns), std::vector<std::vector<Row>>(experts)});
}

void ExpertStage::add_rank(const ObservedRank& seen, const model::Mesh& mesh) {
  const bool is_gate_up = weight_ == Weight::kGateUp;
  const auto& shown = is_gate_up ? seen.gate_up_RG : seen.out_RD;
  const auto& input = is_gate_up ? seen.x_TD : seen.act_RF;
  if (!seen.rows_R || !shown || !input) return;
  const auto columns = is_gate_up ? seen.columns_of("experts/gate_up_RG", spec_.gate_up_rows(), mesh)
                                  : seen.columns_of("experts/act_RF", spec_.d_ff, mesh);
  if (!columns) return;
  auto w_rows = is_gate_up ? *columns : all_of(spec_.d_model);
  auto w_columns = is_gate_up ? all_of(spec_.d_model) : *columns;
  const auto terms = static_cast<Dim>(w_columns.size());
  const auto [entry, inserted] = taps_.emplace(seen.rank, make_tap(shown->rows(), shown->cols(), terms));
  MOECHECK_REQUIRE(inserted);
  Part& part = part_with(std::move(w_rows), std::move(w_columns));
  entry->second.is_comparable = seen.is_routed_R;
  for (std::size_t i = 0; i < seen.rows_R->size(); ++i) {
    if (seen.is_routed_R[i] == 0) continue;
    const RoutedRow& key = (*seen.rows_R)[i];
    const auto row = static_cast<Dim>(i);
    part.rows_of_expert[static_cast<std::size_t>(key.expert)].push_back(
        {row, is_gate_up ? key.token : row, &*input, &entry->second});
  }
}

bool ExpertStage::has_rows(Dim expert) const {
  for (const Part& part : parts_)
    if (!part.rows_of_expert[static_cast<std::size_t>(expert)].empty()) return true;
  return false;
}

void ExpertStage::run(Dim expert, const ExpertWeights<float>& weights) {
  const Matrix<float>& w = weight_ == Weight::kGateUp ? weights.w_gate_up_GD : weights.w_down_DF;
  for (const Part& part : parts_) {
    const auto& rows = part.rows_of_expert[static_cast<std::size_t>(expert)];
    if (rows.empty()) continue;
    Matrix<double> input_RK(static_cast<Dim>(rows.size()), static_cast<Dim>(part.w_columns.size()));
    for (std::size_t i = 0; i < rows.size(); ++i) input_RK.row(static_cast<Dim>(i)) = rows[i].input->row(rows[i].source);
    const BoundedMatrix product = bounded_product(input_RK, w, {part.w_rows, part.w_columns});
    for (std::size_t i = 0; i < rows.size(); ++i) {
      view_of(rows[i].tap->value).row(rows[i].row) = product.value.row(static_cast<Dim>(i));
      view_of(rows[i].tap->magnitude).row(rows[i].row) = product.magnitude.row(static_cast<Dim>(i));
    }
  }
}

}  // namespace moecheck::reference
