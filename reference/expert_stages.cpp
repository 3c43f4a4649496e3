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

void ExpertStage::add_rank(const ObservedRank& seen) {
  const bool is_gate_up = weight_ == Weight::kGateUp;
  const auto& shown = is_gate_up ? seen.gate_up_RG : seen.out_RD;
  if (!seen.rows_R || !shown || (!is_gate_up && !seen.act_RF)) return;
  const auto columns = is_gate_up ? computed_columns(layer_.problem(), seen.rank, "param/experts/gate_up_EGD", 1, shown->cols())
                                  : computed_columns(layer_.problem(), seen.rank, "param/experts/down_EDF", 2, seen.act_RF->cols());
  if (!columns) return;
  auto w_rows = is_gate_up ? *columns : all_of(spec_.d_model);
  auto w_columns = is_gate_up ? all_of(spec_.d_model) : *columns;
  const auto terms = static_cast<Dim>(w_columns.size());
  const auto [entry, inserted] = taps_.emplace(seen.rank, make_tap(shown->rows(), shown->cols(), terms));
  MOECHECK_REQUIRE(inserted);
  Part& part = part_with(std::move(w_rows), std::move(w_columns));
  entry->second.is_comparable = seen.rows_R->is_routed;
  for (std::size_t i = 0; i < seen.rows_R->keys.size(); ++i) {
    if (seen.rows_R->is_routed[i] == 0) continue;
    const auto row = static_cast<Dim>(i);
    const auto input = is_gate_up ? layer_.expert_input(seen, row) : RecordedRow{&seen, &*seen.act_RF, row};
    entry->second.is_comparable[i] = input.has_value();
    if (input) part.rows_of_expert[static_cast<std::size_t>(seen.rows_R->keys[i].expert)].push_back({row, *input, &entry->second});
  }
}

void ExpertStage::skip(Dim expert) {
  for (const Part& part : parts_)
    for (const Row& row : part.rows_of_expert[static_cast<std::size_t>(expert)]) row.tap->is_comparable[static_cast<std::size_t>(row.row)] = 0;
}

std::map<Dim, trace::ExpectedTap> ExpertStage::take_taps() {
  std::map<Dim, trace::ExpectedTap> kept;
  for (auto& [rank, tap] : taps_)
    if (auto known = if_any_input(std::move(tap), layer_.find(rank)->rows_R->is_routed)) kept.emplace(rank, *std::move(known));
  return kept;
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
    for (std::size_t i = 0; i < rows.size(); ++i) input_RK.row(static_cast<Dim>(i)) = rows[i].input.values();
    const BoundedMatrix product = bounded_product(input_RK, w, {part.w_rows, part.w_columns});
    for (std::size_t i = 0; i < rows.size(); ++i) {
      view_of(rows[i].tap->value).row(rows[i].row) = product.value.row(static_cast<Dim>(i));
      view_of(rows[i].tap->magnitude).row(rows[i].row) = product.magnitude.row(static_cast<Dim>(i));
    }
  }
}

}  // namespace moecheck::reference
