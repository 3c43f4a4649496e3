#include "reference/grad_expert_stages.h"

#include <algorithm>
#include <cmath>
#include <numeric>

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

Matrix<double> matrix_row(const base::HostTensor& tensor, Dim row) {
  Matrix<double> values(1, tensor.dim(1));
  for (Dim i = 0; i < values.cols(); ++i) values(0, i) = tensor.at(row * values.cols() + i);
  return values;
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
  for (std::size_t e = 0; e < sum.is_comparable.size(); ++e) sum.is_comparable[e] = sum.is_comparable[e] != 0 && part.is_comparable[e] != 0;
  sum.terms += part.terms;
}

// Where `wanted` stand among `held`; nothing if one does not.
std::optional<std::vector<Dim>> positions_of(const std::vector<Dim>& wanted, const std::vector<Dim>& held) {
  std::vector<Dim> positions;
  for (const Dim index : wanted) {
    const auto found = std::ranges::find(held, index);
    if (found == held.end()) return std::nullopt;
    positions.push_back(found - held.begin());
  }
  return positions;
}

}  // namespace

GradExpertStages::GradExpertStages(const ObservedLayer& layer, bool is_batched) : layer_(layer), is_batched_(is_batched) {
  for (const ObservedRank& seen : layer.ranks()) add_rank(seen);
}

void GradExpertStages::add_rank(const ObservedRank& seen) {
  const model::Problem& problem = layer_.problem();
  const model::ModelSpec& spec = problem.model;
  if (!seen.rows_R || !seen.grad_out_RD || !seen.grad_act_RF || !seen.grad_gate_up_RG || !seen.act_RF) return;
  const auto g = computed_columns(problem, seen.rank, "param/experts/gate_up_EGD", 1, seen.grad_gate_up_RG->cols());
  const auto f = computed_columns(problem, seen.rank, "param/experts/down_EDF", 2, seen.grad_act_RF->cols());
  if (!g || !f || seen.act_RF->cols() != seen.grad_act_RF->cols()) return;
  RankWork work;
  work.seen = &seen;
  work.gate_up_columns = *g;
  work.f_columns = *f;
  work.experts = trace::local_experts(problem, seen.rank);
  work.grad_act = make_tap(seen.grad_act_RF->rows(), seen.grad_act_RF->cols(), spec.d_model);
  work.grad_in = make_tap(seen.grad_act_RF->rows(), spec.d_model, static_cast<Dim>(g->size()));
  work.grad_act.is_comparable = work.grad_in.is_comparable = seen.rows_R->is_routed;
  work.grad_gate_up_EGD = make_expert_tap(work.experts.count, static_cast<Dim>(g->size()), spec.d_model);
  work.grad_down_EDF = make_expert_tap(work.experts.count, spec.d_model, static_cast<Dim>(f->size()));
  ranks_.emplace(seen.rank, std::move(work));
}

bool GradExpertStages::has_rows(Dim expert) const {
  for (const auto& [rank, work] : ranks_)
    for (const RoutedRow& key : work.seen->rows_R->keys)
      if (key.expert == expert) return true;
  return false;
}

void GradExpertStages::run(Dim expert, const ExpertWeights<float>& weights) {
  for (auto& [rank, work] : ranks_) {
    run_rank(work, expert, weights);
    add_outer_products(work, expert);
  }
}

void GradExpertStages::skip(Dim expert) {
  for (auto& [rank, work] : ranks_) {
    for (std::size_t i = 0; i < work.seen->rows_R->keys.size(); ++i)
      if (work.seen->rows_R->keys[i].expert == expert) work.grad_act.is_comparable[i] = work.grad_in.is_comparable[i] = 0;
    add_outer_products(work, expert);
  }
}

void GradExpertStages::run_rank(RankWork& work, Dim expert, const ExpertWeights<float>& weights) const {
  const ObservedRank& seen = *work.seen;
  const Matrix<double> w_gate_up_GD = picked(weights.w_gate_up_GD, work.gate_up_columns);
  const Matrix<double> w_down_DF = picked_columns(weights.w_down_DF, work.f_columns);
  for (std::size_t i = 0; i < seen.rows_R->keys.size(); ++i) {
    if (seen.rows_R->is_routed[i] == 0 || seen.rows_R->keys[i].expert != expert) continue;
    const auto row = static_cast<Dim>(i);
    // d act = W_down^T d out
    view_of(work.grad_act.value).row(row) = seen.grad_out_RD->row(row) * w_down_DF;
    view_of(work.grad_act.magnitude).row(row) = seen.grad_out_RD->row(row).cwiseAbs() * w_down_DF.cwiseAbs();
    // d in = W_gate_up^T d gate_up
    view_of(work.grad_in.value).row(row) = seen.grad_gate_up_RG->row(row) * w_gate_up_GD;
    view_of(work.grad_in.magnitude).row(row) = seen.grad_gate_up_RG->row(row).cwiseAbs() * w_gate_up_GD.cwiseAbs();
  }
}

// dW_down += d out act^T; dW_gate_up += d gate_up in^T
void GradExpertStages::add_outer_products(RankWork& work, Dim expert) const {
  if (!work.experts.has(expert)) return;  // rows of an expert that is not the rank's: another check's finding
  const Dim local = expert - work.experts.first;
  const ObservedRank& seen = *work.seen;
  for (std::size_t i = 0; i < seen.rows_R->keys.size(); ++i) {
    if (seen.rows_R->keys[i].expert != expert) continue;
    const auto row = static_cast<Dim>(i);
    const auto in_D = seen.rows_R->is_routed[i] != 0 ? layer_.expert_input(seen, row) : std::nullopt;
    if (!in_D) {
      // What a row of nobody's token, or with an unknown input, adds cannot be known.
      work.grad_gate_up_EGD.is_comparable[static_cast<std::size_t>(local)] = 0;
      if (seen.rows_R->is_routed[i] == 0) work.grad_down_EDF.is_comparable[static_cast<std::size_t>(local)] = 0;
    }
    const auto d_down_DF = (seen.grad_out_RD->row(row).transpose() * seen.act_RF->row(row)).eval();
    slice_of(work.grad_down_EDF.value, local) += d_down_DF;
    slice_of(work.grad_down_EDF.magnitude, local) += d_down_DF.cwiseAbs();
    ++work.grad_down_EDF.terms;
    if (!in_D) continue;
    const auto d_gate_up_GD = (seen.grad_gate_up_RG->row(row).transpose() * in_D->values()).eval();
    slice_of(work.grad_gate_up_EGD.value, local) += d_gate_up_GD;
    slice_of(work.grad_gate_up_EGD.magnitude, local) += d_gate_up_GD.cwiseAbs();
    ++work.grad_gate_up_EGD.terms;
  }
}

std::optional<ExpectedTap> GradExpertStages::summed_over_replicas(const RankWork& work, const Parameter& parameter) const {
  const model::Problem& problem = layer_.problem();
  const base::Shape shape = (work.*parameter.grad).value.shape();
  ExpectedTap sum = make_expert_tap(shape[0], shape[1], shape[2]);
  // Ranks that compute with the same part of the parameter, on other tokens.
  const auto cuts = trace::compute_cuts(problem, parameter.tap);
  Dim num_ranks = 0;
  for (Dim rank = 0; rank < problem.mesh.world_size(); ++rank) {
    const bool is_same_part = std::ranges::all_of(cuts, [&](const model::Cut& cut) {
      return problem.mesh.coordinate(rank, cut.mesh_dim) == problem.mesh.coordinate(work.seen->rank, cut.mesh_dim);
    });
    if (!is_same_part) continue;
    const auto found = ranks_.find(rank);
    if (found == ranks_.end() || (found->second.*parameter.grad).value.shape() != shape) return std::nullopt;
    add_to(sum, found->second.*parameter.grad);
    ++num_ranks;
  }
  sum.roundings = (is_batched_ ? sum.terms : 1) + num_ranks;
  return stored_shard(work, parameter, std::move(sum));
}

std::optional<ExpectedTap> GradExpertStages::stored_shard(const RankWork& work, const Parameter& parameter, ExpectedTap sum) const {
  const model::Problem& problem = layer_.problem();
  const bool is_gate_up = parameter.grad == &RankWork::grad_gate_up_EGD;
  std::vector<Dim> all_d(static_cast<std::size_t>(problem.model.d_model));
  std::iota(all_d.begin(), all_d.end(), Dim{0});
  const auto rows = positions_of(trace::declared_indices(problem, parameter.tap, work.seen->rank, 1), is_gate_up ? work.gate_up_columns : all_d);
  const auto columns = positions_of(trace::declared_indices(problem, parameter.tap, work.seen->rank, 2), is_gate_up ? all_d : work.f_columns);
  if (!rows || !columns) return std::nullopt;
  const Dim num_experts = sum.value.dim(0);
  ExpectedTap shard = make_expert_tap(num_experts, static_cast<Dim>(rows->size()), static_cast<Dim>(columns->size()));
  shard.terms = sum.terms;
  shard.roundings = sum.roundings;
  shard.is_comparable = sum.is_comparable;
  for (Dim e = 0; e < num_experts; ++e) {
    slice_of(shard.value, e) = slice_of(sum.value, e)(*rows, *columns);
    slice_of(shard.magnitude, e) = slice_of(sum.magnitude, e)(*rows, *columns);
  }
  shard.stored = shard.magnitude;
  return shard;
}

// What the rows of `member` give to the tokens of `seen`. False if it cannot be known.
bool GradExpertStages::add_rows_dx(const ObservedRank& seen, const ObservedRank& member, bool is_recorded, ExpectedTap& dx) const {
  const auto work = ranks_.find(member.rank);
  if (!member.rows_R || (!is_recorded && work == ranks_.end())) return false;
  for (std::size_t i = 0; i < member.rows_R->keys.size(); ++i) {
    const RoutedRow& key = member.rows_R->keys[i];
    if (!seen.owns(key.token) || key.expert == kMaskedExpert) continue;
    const Dim t = key.token - seen.first_token;
    const auto row = static_cast<Dim>(i);
    const bool is_routed = member.rows_R->is_routed[i] != 0;
    const auto weight = layer_.weighs_before() && is_routed ? layer_.score_of(seen, key) : 1.0;
    if (!is_routed || !weight || (!is_recorded && work->second.grad_in.is_comparable[i] == 0)) {
      dx.is_comparable[static_cast<std::size_t>(t)] = 0;
      continue;
    }
    const Matrix<double> computed_D = is_recorded ? member.grad_in_RD->row(row) : matrix_row(work->second.grad_in.value, row);
    const Matrix<double> magnitude_D = is_recorded ? computed_D.cwiseAbs() : matrix_row(work->second.grad_in.magnitude, row);
    view_of(dx.value).row(t) += *weight * computed_D.row(0);
    view_of(dx.stored).row(t) += (*weight * computed_D.row(0)).cwiseAbs();
    view_of(dx.magnitude).row(t) += std::fabs(*weight) * magnitude_D.row(0);
  }
  return true;
}

std::optional<ExpectedTap> GradExpertStages::whole_dx(const ObservedRank& seen, const Matrix<float>& w_router_ED) const {
  if (!seen.grad_logits_TE) return std::nullopt;
  const model::ModelSpec& spec = layer_.problem().model;
  const auto group = layer_.layer_group(seen);
  const auto shows_grad_in = [](const ObservedRank* member) { return member != nullptr && member->grad_in_RD.has_value(); };
  const bool is_recorded = std::ranges::all_of(group, shows_grad_in);
  const auto num_ranks = static_cast<Dim>(group.size());
  const Dim row_terms = is_recorded ? spec.top_k * num_ranks : spec.gate_up_rows();
  ExpectedTap tap = make_tap(seen.num_tokens, spec.d_model, row_terms + spec.num_experts);
  tap.stored = base::HostTensor(base::DType::kF64, tap.value.shape());
  for (const ObservedRank* member : group)
    if (member == nullptr || !add_rows_dx(seen, *member, is_recorded, tap)) return std::nullopt;
  const Matrix<double> w = w_router_ED.cast<double>();
  const Matrix<double> router_TD = *seen.grad_logits_TE * w;
  view_of(tap.value) += router_TD;
  view_of(tap.stored) += router_TD.cwiseAbs();
  view_of(tap.magnitude) += seen.grad_logits_TE->cwiseAbs() * w.cwiseAbs();
  // Each slot's part stored (and again if it is weighted), then added up over K slots, the ranks, and the router's part.
  tap.roundings = spec.top_k + num_ranks + (layer_.weighs_before() ? 4 : 3);
  return tap;
}

void GradExpertStages::write(trace::Expected& expected, const Matrix<float>* w_router_ED) {
  for (auto& [rank, work] : ranks_) {
    auto& taps = expected.ranks[static_cast<std::size_t>(rank)].taps;
    for (const Parameter& parameter : {Parameter{"grad/experts/gate_up_EGD", &RankWork::grad_gate_up_EGD},
                                       Parameter{"grad/experts/down_EDF", &RankWork::grad_down_EDF}})
      if (auto sum = summed_over_replicas(work, parameter)) taps.emplace(parameter.tap, *std::move(sum));
  }
  if (w_router_ED != nullptr)
    for (const ObservedRank& seen : layer_.ranks())
      if (auto dx = whole_dx(seen, *w_router_ED)) expected.ranks[static_cast<std::size_t>(seen.rank)].taps.emplace("grad/x_TD", *std::move(dx));
  for (auto& [rank, work] : ranks_) {
    auto& taps = expected.ranks[static_cast<std::size_t>(rank)].taps;
    const auto& is_routed = work.seen->rows_R->is_routed;
    if (auto known = if_any_input(std::move(work.grad_act), is_routed)) taps.emplace("grad/act_RF", *std::move(known));
    if (!work.seen->grad_in_RD) continue;
    if (auto known = if_any_input(std::move(work.grad_in), is_routed)) taps.emplace("grad/in_RD", *std::move(known));
  }
}

}  // namespace moecheck::reference
