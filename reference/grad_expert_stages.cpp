#include "reference/grad_expert_stages.h"

#include <algorithm>

#include "reference/stages.h"

namespace moecheck::reference {
namespace {

using trace::ExpectedTap;

ExpectedTap make_expert_tap(Dim experts, Dim rows, Dim columns) {
  const base::Shape shape = {experts, rows, columns};
  return {base::HostTensor(base::DType::kF64, shape), base::HostTensor(base::DType::kF64, shape), 1,
          std::vector<std::uint8_t>(static_cast<std::size_t>(experts), 1)};
}

// Expert `e` of an (e, rows, columns) tensor.
Eigen::Map<Matrix<double>> slice_of(base::HostTensor& tensor, Dim e) {
  const Dim rows = tensor.dim(1), columns = tensor.dim(2);
  return {tensor.mutable_view<double>().data() + e * rows * columns, rows, columns};
}

Matrix<double> picked(const Matrix<float>& w, const std::vector<Dim>& rows) {
  Matrix<double> result(static_cast<Dim>(rows.size()), w.cols());
  for (std::size_t i = 0; i < rows.size(); ++i) result.row(static_cast<Dim>(i)) = w.row(rows[i]).cast<double>();
  return result;
}

Matrix<double> picked_columns(const Matrix<float>& w, const std::vector<Dim>& columns) {
  Matrix<double> result(w.rows(), static_cast<Dim>(columns.size()));
  for (std::size_t i = 0; i < columns.size(); ++i) result.col(static_cast<Dim>(i)) = w.col(columns[i]).cast<double>();
  return result;
}

void add_to(ExpectedTap& sum, const ExpectedTap& part) {
  auto value = sum.value.mutable_view<double>();
  auto magnitude = sum.magnitude.mutable_view<double>();
  for (std::size_t i = 0; i < value.size(); ++i) {
    value[i] += part.value.at(static_cast<Dim>(i));
    magnitude[i] += part.magnitude.at(static_cast<Dim>(i));
  }
  sum.terms += part.terms;
}

}  // namespace

GradExpertStages::GradExpertStages(const model::Problem& problem, bool is_batched, std::span<const ObservedRank> all)
    : problem_(problem), is_batched_(is_batched) {
  for (const ObservedRank& seen : all) add_rank(seen);
}

void GradExpertStages::add_rank(const ObservedRank& seen) {
  const model::ModelSpec& spec = problem_.model;
  if (!seen.rows_R || !seen.grad_out_RD || !seen.grad_act_RF || !seen.grad_gate_up_RG || !seen.act_RF || !seen.x_TD) return;
  const auto g = seen.columns_of("experts/gate_up_RG", spec.gate_up_rows(), problem_.mesh);
  const auto f = seen.columns_of("experts/act_RF", spec.d_ff, problem_.mesh);
  if (!g || !f || seen.grad_gate_up_RG->cols() != static_cast<Dim>(g->size()) || seen.grad_act_RF->cols() != static_cast<Dim>(f->size())) return;
  RankWork work;
  work.seen = &seen;
  work.gate_up_columns = *g;
  work.f_columns = *f;
  work.num_experts = spec.num_experts / problem_.mesh.size("ep");
  work.first_expert = problem_.mesh.coordinate(seen.rank, "ep") * work.num_experts;
  work.grad_act = make_tap(seen.grad_act_RF->rows(), seen.grad_act_RF->cols(), spec.d_model);
  work.grad_act.is_comparable = seen.is_routed_R;
  work.grad_gate_up_EGD = make_expert_tap(work.num_experts, static_cast<Dim>(g->size()), spec.d_model);
  work.grad_down_EDF = make_expert_tap(work.num_experts, spec.d_model, static_cast<Dim>(f->size()));
  for (Matrix<double>* dx : {&work.dx_TD, &work.dx_magnitude_TD, &work.dx_stored_TD}) *dx = Matrix<double>::Zero(seen.num_tokens, spec.d_model);
  ranks_.emplace(seen.rank, std::move(work));
}

bool GradExpertStages::has_rows(Dim expert) const {
  for (const auto& [rank, work] : ranks_)
    for (std::size_t i = 0; i < work.seen->rows_R->size(); ++i)
      if (work.seen->is_routed_R[i] != 0 && (*work.seen->rows_R)[i].expert == expert) return true;
  return false;
}

void GradExpertStages::run(Dim expert, const ExpertWeights<float>& weights) {
  for (auto& [rank, work] : ranks_) run_rank(work, expert, weights);
}

void GradExpertStages::run_rank(RankWork& work, Dim expert, const ExpertWeights<float>& weights) const {
  const ObservedRank& seen = *work.seen;
  const Matrix<double> w_gate_up_GD = picked(weights.w_gate_up_GD, work.gate_up_columns);
  const Matrix<double> w_down_DF = picked_columns(weights.w_down_DF, work.f_columns);
  for (std::size_t i = 0; i < seen.rows_R->size(); ++i) {
    const RoutedRow& key = (*seen.rows_R)[i];
    if (seen.is_routed_R[i] == 0 || key.expert != expert) continue;
    const auto row = static_cast<Dim>(i);
    // d act = W_down^T d out
    view_of(work.grad_act.value).row(row) = seen.grad_out_RD->row(row) * w_down_DF;
    view_of(work.grad_act.magnitude).row(row) = seen.grad_out_RD->row(row).cwiseAbs() * w_down_DF.cwiseAbs();
    // dx += W_gate_up^T d gate_up
    const auto dx_D = (seen.grad_gate_up_RG->row(row) * w_gate_up_GD).eval();
    work.dx_TD.row(key.token) += dx_D;
    work.dx_stored_TD.row(key.token) += dx_D.cwiseAbs();
    work.dx_magnitude_TD.row(key.token) += seen.grad_gate_up_RG->row(row).cwiseAbs() * w_gate_up_GD.cwiseAbs();
    add_outer_products(work, expert, row, key.token);
  }
}

// dW_down += d out act^T; dW_gate_up += d gate_up x^T
void GradExpertStages::add_outer_products(RankWork& work, Dim expert, Dim row, Dim token) const {
  const Dim local = expert - work.first_expert;
  if (local < 0 || local >= work.num_experts) return;  // a row of an expert that is not the rank's: another check's finding
  const ObservedRank& seen = *work.seen;
  const auto d_down_DF = (seen.grad_out_RD->row(row).transpose() * seen.act_RF->row(row)).eval();
  const auto d_gate_up_GD = (seen.grad_gate_up_RG->row(row).transpose() * seen.x_TD->row(token)).eval();
  slice_of(work.grad_down_EDF.value, local) += d_down_DF;
  slice_of(work.grad_down_EDF.magnitude, local) += d_down_DF.cwiseAbs();
  slice_of(work.grad_gate_up_EGD.value, local) += d_gate_up_GD;
  slice_of(work.grad_gate_up_EGD.magnitude, local) += d_gate_up_GD.cwiseAbs();
  ++work.grad_down_EDF.terms;
  ++work.grad_gate_up_EGD.terms;
}

trace::ExpectedTap GradExpertStages::summed_over_replicas(const RankWork& work, ExpectedTap RankWork::*member) const {
  const base::Shape shape = (work.*member).value.shape();
  ExpectedTap sum = make_expert_tap(shape[0], shape[1], shape[2]);
  const std::vector<Dim> group = problem_.mesh.group(work.seen->rank, "dp");
  for (const Dim rank : group)
    if (const auto found = ranks_.find(rank); found != ranks_.end()) add_to(sum, found->second.*member);
  sum.stored = sum.magnitude;
  sum.roundings = (is_batched_ ? sum.terms : 1) + static_cast<Dim>(group.size());
  return sum;
}

trace::ExpectedTap GradExpertStages::whole_dx(const RankWork& work, const Matrix<float>& w_router_ED) const {
  const model::ModelSpec& spec = problem_.model;
  ExpectedTap tap = make_tap(work.seen->num_tokens, spec.d_model, spec.gate_up_rows() + spec.num_experts);
  tap.stored = base::HostTensor(base::DType::kF64, tap.value.shape());
  Dim num_ranks = 0;
  for (const auto& [rank, other] : ranks_) {
    if (problem_.mesh.coordinate(rank, "dp") != problem_.mesh.coordinate(work.seen->rank, "dp")) continue;
    ++num_ranks;
    view_of(tap.value) += other.dx_TD;
    view_of(tap.magnitude) += other.dx_magnitude_TD;
    view_of(tap.stored) += other.dx_stored_TD;
  }
  const Matrix<double> w = w_router_ED.cast<double>();
  const Matrix<double> router_TD = *work.seen->grad_logits_TE * w;
  view_of(tap.value) += router_TD;
  view_of(tap.stored) += router_TD.cwiseAbs();
  view_of(tap.magnitude) += work.seen->grad_logits_TE->cwiseAbs() * w.cwiseAbs();
  // Each slot's part stored, then added up over K slots, the ranks, and the router's part.
  tap.roundings = spec.top_k + num_ranks + 3;
  return tap;
}

void GradExpertStages::write(trace::Expected& expected, const Matrix<float>& w_router_ED) {
  for (auto& [rank, work] : ranks_) {
    auto& taps = expected.ranks[static_cast<std::size_t>(rank)].taps;
    taps.emplace("grad/experts/gate_up_EGD", summed_over_replicas(work, &RankWork::grad_gate_up_EGD));
    taps.emplace("grad/experts/down_EDF", summed_over_replicas(work, &RankWork::grad_down_EDF));
    if (work.seen->grad_logits_TE) taps.emplace("grad/x_TD", whole_dx(work, w_router_ED));
  }
  for (auto& [rank, work] : ranks_) expected.ranks[static_cast<std::size_t>(rank)].taps.emplace("grad/act_RF", std::move(work.grad_act));
}

}  // namespace moecheck::reference
