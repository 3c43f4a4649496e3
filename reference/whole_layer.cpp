#include "reference/whole_layer.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "harness/trace/layout.h"
#include "harness/trace/tap_points.h"

namespace moecheck::reference {
namespace {

using tolerance::Near;
using tolerance::Stage;
using tolerance::StageBound;

constexpr std::string_view kScores = "router/scores_TK";
constexpr std::string_view kPartial = "combine/partial_TD";
constexpr std::string_view kOutput = "output/y_TD";
constexpr std::string_view kGateUp = "grad/experts/gate_up_EGD";
constexpr std::string_view kDown = "grad/experts/down_EDF";
constexpr std::string_view kRouter = "grad/router/w_ED";
constexpr std::array<std::string_view, 9> kTaps = {kScores, kPartial,           kOutput,          kGateUp,   kDown,
                                                   kRouter, "grad/scores_TK", "grad/logits_TE", "grad/x_TD"};

bool is_wanted(const model::Problem& problem, const ObservedRank& seen, const trace::Expected& expected, std::string_view tap) {
  const base::HostTensor* tensor = seen.trace->tensor(tap);
  if (tensor == nullptr || !base::is_floating(tensor->dtype())) return false;
  const trace::ShownSizes sizes{.rows = -1, .slot_tokens = static_cast<Dim>(seen.slot_tokens_S.size()), .combined = -1};
  if (tensor->shape() != trace::declared_shape(problem, tap, seen.rank, sizes)) return false;
  return !expected.ranks[static_cast<std::size_t>(seen.rank)].taps.contains(tap);
}

trace::WholeTap make_whole(const base::Shape& shape) {
  const auto rows = static_cast<std::size_t>(shape.empty() ? 1 : shape[0]);
  const base::HostTensor value(base::DType::kF64, shape), bound(base::DType::kF64, shape);
  return {value, bound, {}, std::vector<std::uint8_t>(rows, 1)};
}

void fill(const Tracked& from, trace::WholeTap& into, Dim first) {
  std::copy_n(from.value.data(), from.value.size(), into.value.mutable_view<double>().begin() + first);
  std::copy_n(from.bound.data(), from.bound.size(), into.bound.mutable_view<double>().begin() + first);
}

bool names(std::string_view mesh_dims, std::string_view dim) {
  while (!mesh_dims.empty()) {
    const auto comma = std::min(mesh_dims.find(','), mesh_dims.size());
    if (mesh_dims.substr(0, comma) == dim) return true;
    mesh_dims.remove_prefix(std::min(comma + 1, mesh_dims.size()));
  }
  return false;
}

// <a row, b row>, to be added to an element of a sum.
struct Dot {
  double value = 0, plain = 0, largest = 0;
};
Dot dot_of(const Tracked& a, Dim a_row, const Tracked& b, Dim b_row) {
  return {a.value.row(a_row).dot(b.value.row(b_row)), a.value.row(a_row).cwiseAbs().dot(b.value.row(b_row).cwiseAbs()),
          (a.value.row(a_row).cwiseAbs() + a.bound.row(a_row)).dot(b.value.row(b_row).cwiseAbs() + b.bound.row(b_row))};
}

void add_dot(const Dot& dot, TrackedSum& sum, Dim row, Dim column) {
  sum.value(row, column) += dot.value;
  sum.plain(row, column) += dot.plain;
  sum.largest(row, column) += dot.largest;
  sum.moved(row) += dot.largest - dot.plain;
}

}  // namespace

bool WholeLayer::is_needed(const ObservedLayer& layer, const trace::Expected& expected) {
  return std::ranges::any_of(layer.ranks(), [&](const ObservedRank& seen) {
    return std::ranges::any_of(kTaps, [&](std::string_view tap) { return is_wanted(layer.problem(), seen, expected, tap); });
  });
}

WholeLayer::WholeLayer(const cases::Case& one, const ObservedLayer& layer, const Matrix<float>* w_router_ED, Matrix<double> grad_y_SD,
                       trace::Expected& expected)
    : one_(one), layer_(layer), w_router_ED_(w_router_ED), grad_y_SD_(std::move(grad_y_SD)), expected_(expected),
      tokens_(layer, w_router_ED) {
  const model::Problem& problem = one.problem;
  const Dim num_tokens = problem.total_tokens();
  const auto held = [&](std::string_view tap, Dim size, Dim dim, Dim rank) {
    return model::held_indices(trace::compute_cuts(problem, tap), size, dim, problem.mesh, rank);
  };
  for (const Dim rank : problem.cuts_experts() ? problem.mesh.group(0, "tp") : std::vector<Dim>{0})
    parts_.push_back({held(kDown, problem.model.d_ff, 2, rank), held(kGateUp, problem.model.gate_up_rows(), 1, rank)});
  is_complete_.assign(static_cast<std::size_t>(num_tokens), 1);
  y_SD_ = TrackedSum::zeros(num_tokens, problem.model.d_model);
  d_x_SD_ = y_SD_;
  d_scores_SK_ = TrackedSum::zeros(num_tokens, problem.model.top_k);
  find_wanted();
}

void WholeLayer::find_wanted() {
  for (const ObservedRank& seen : layer_.ranks()) {
    for (const std::string_view tap : kTaps) {
      if (!is_wanted(one_.problem, seen, expected_, tap)) continue;
      is_backward_ = is_backward_ || tap.starts_with("grad/");
      if (tap == kPartial) partials_.push_back(partial_of(seen));
      if (tap != kGateUp && tap != kDown) continue;
      parameters_.push_back({&seen, std::string(tap), make_whole(seen.trace->tensor(tap)->shape())});
    }
  }
}

// Whose rows a rank sums is told by the rows that came back to it; without rows there is only the subject's word.
WholeLayer::Partial WholeLayer::partial_of(const ObservedRank& seen) const {
  const model::Problem& problem = one_.problem;
  Partial partial{&seen, false, false, TrackedSum::zeros(static_cast<Dim>(seen.slot_tokens_S.size()), problem.model.d_model)};
  if (seen.combined_N) {
    partial.is_of_own_part = problem.cuts_experts();
    return partial;
  }
  for (const model::Cut& cut : seen.trace->find(kPartial)->cuts) {
    if (cut.placement.kind != model::PlacementKind::kPartial) continue;
    const bool is_over_tp = names(cut.mesh_dim, "tp");
    partial.is_of_local_experts = partial.is_of_local_experts || names(cut.mesh_dim, "ep") || (is_over_tp && !problem.cuts_experts());
    partial.is_of_own_part = partial.is_of_own_part || (is_over_tp && problem.cuts_experts());
  }
  return partial;
}

Dim WholeLayer::num_ranks() const { return static_cast<Dim>(one_.problem.layer_group(0).size()); }

WholeLayer::Work WholeLayer::forward(Dim expert, const ExpertWeights<float>& weights) const {
  const model::ModelSpec& spec = one_.problem.model;
  const base::DType store = one_.problem.dtype;
  Work work{expert, tokens_.rows_of(expert), {}, {}, {}, {}, weights.w_gate_up_GD.cast<double>(), weights.w_down_DF.cast<double>()};
  std::vector<Dim> tokens;
  const auto num_rows = static_cast<Dim>(work.rows.size());
  work.score_R1 = exactly(Matrix<double>::Zero(num_rows, 1));
  for (const RoutedRow& row : work.rows) {
    const auto r = static_cast<Dim>(tokens.size());
    work.score_R1.value(r, 0) = tokens_.scores_SK().value(row.token, row.slot);
    work.score_R1.bound(r, 0) = tokens_.scores_SK().bound(row.token, row.slot);
    tokens.push_back(row.token);
  }
  work.in_RD = rows_of(tokens_.x_SD(), tokens);
  if (weighs_before()) work.in_RD = weighted(work.in_RD, work.score_R1, StageBound(Stage::kDispatch, store, 1, 0));
  work.gate_up_RG = stored(products(work.in_RD, exactly(work.w_gate_up_GD)), StageBound(Stage::kMatmul, store, spec.d_model, 0));
  work.act_RF = swiglu(work.gate_up_RG, spec.activation, store);
  return work;
}

void WholeLayer::add(Dim expert, const ExpertWeights<float>& weights) {
  const Work work = forward(expert, weights);
  if (work.rows.empty()) return;
  std::vector<Tracked> outs_RD;
  for (std::size_t p = 0; p < parts_.size(); ++p) {
    const std::vector<Dim>& f = parts_[p].f_columns;
    const Tracked w_DF = exactly(work.w_down_DF(Eigen::all, f));
    const StageBound stage(Stage::kMatmul, one_.problem.dtype, static_cast<Dim>(f.size()), 0);
    outs_RD.push_back(stored(products(columns_of(work.act_RF, f), w_DF), stage));
    add_output(work, p, outs_RD.back());
  }
  if (is_backward_) add_backward(work, outs_RD);
}

void WholeLayer::add_output(const Work& work, std::size_t part, const Tracked& out_RD) {
  const model::Problem& problem = one_.problem;
  const auto weight_of = [&](std::size_t r) { return weighs_before() ? Near{1, 0} : work.score(r); };
  for (std::size_t r = 0; r < work.rows.size(); ++r)
    y_SD_.add_row(work.rows[r].token, weight_of(r), out_RD, static_cast<Dim>(r));
  for (Partial& partial : partials_) {
    const ObservedRank& seen = *partial.seen;
    if (partial.is_of_local_experts && !trace::local_experts(problem, seen.rank).has(work.expert)) continue;
    if (partial.is_of_own_part && static_cast<Dim>(part) != problem.mesh.coordinate(seen.rank, "tp")) continue;
    for (std::size_t r = 0; r < work.rows.size(); ++r) {
      if (seen.combined_N && std::ranges::find(seen.combined_N->keys, work.rows[r]) == seen.combined_N->keys.end()) continue;
      const auto slot_row = std::ranges::find(seen.slot_tokens_S, work.rows[r].token);
      if (slot_row == seen.slot_tokens_S.end()) continue;
      partial.sum.add_row(slot_row - seen.slot_tokens_S.begin(), weight_of(r), out_RD, static_cast<Dim>(r));
    }
  }
}

void WholeLayer::add_backward(const Work& work, const std::vector<Tracked>& outs_RD) {
  const model::ModelSpec& spec = one_.problem.model;
  const base::DType store = one_.problem.dtype;
  Tracked d_y_RD = exactly(Matrix<double>(static_cast<Dim>(work.rows.size()), spec.d_model));
  for (std::size_t r = 0; r < work.rows.size(); ++r) d_y_RD.value.row(static_cast<Dim>(r)) = grad_y_SD_.row(work.rows[r].token);
  if (!weighs_before()) add_score_gradients(work, outs_RD, d_y_RD);
  const Tracked d_out_RD = weighs_before() ? d_y_RD : weighted(d_y_RD, work.score_R1, StageBound(Stage::kGradient, store, 1, 0));
  // d act = W_down^T d out
  const Tracked w_FD = exactly(work.w_down_DF.transpose());
  const Tracked d_act_RF = stored(products(d_out_RD, w_FD), StageBound(Stage::kGradient, store, spec.d_model, 0));
  const Tracked d_gate_up_RG = swiglu_backward(work.gate_up_RG, d_act_RF, spec.activation, store);
  add_row_gradients(work, d_gate_up_RG);
  add_parameter_gradients(work, d_out_RD, d_gate_up_RG);
}

// d s = <out, dy>. The errors of act reach it through W_down^T dy, whose terms cancel as those of <out, dy> do; beside them stand the
// roundings of out itself.
void WholeLayer::add_score_gradients(const Work& work, const std::vector<Tracked>& outs_RD, const Tracked& d_y_RD) {
  for (std::size_t p = 0; p < parts_.size(); ++p) {
    const std::vector<Dim>& f = parts_[p].f_columns;
    const Tracked act_RF = columns_of(work.act_RF, f);
    const Matrix<double> w_DF = work.w_down_DF(Eigen::all, f);
    const Matrix<double> moved_RD = act_RF.bound * w_DF.cwiseAbs().transpose();   // of out, by the errors of act
    const Matrix<double> through_RF = (d_y_RD.value * w_DF).cwiseAbs();
    for (std::size_t i = 0; i < work.rows.size(); ++i) {
      const auto r = static_cast<Dim>(i);
      Dot dot = dot_of(outs_RD[p], r, d_y_RD, r);
      dot.plain = dot.largest - through_RF.row(r).dot(act_RF.bound.row(r)) -
                  d_y_RD.value.row(r).cwiseAbs().dot(outs_RD[p].bound.row(r) - moved_RD.row(r));
      add_dot(dot, d_scores_SK_, work.rows[i].token, work.rows[i].slot);
    }
  }
}

// d in = W_gate_up^T d gate_up, times the score where that goes before the experts; then d s = <x, d in>.
void WholeLayer::add_row_gradients(const Work& work, const Tracked& d_gate_up_RG) {
  for (const Part& part : parts_) {
    const std::vector<Dim>& g = part.gate_up_rows;
    const Tracked w_DG = exactly(work.w_gate_up_GD(g, Eigen::all).transpose());
    const StageBound stage(Stage::kGradient, one_.problem.dtype, static_cast<Dim>(g.size()), 0);
    const Tracked d_in_RD = stored(products(columns_of(d_gate_up_RG, g), w_DG), stage);
    for (std::size_t i = 0; i < work.rows.size(); ++i) {
      const RoutedRow& row = work.rows[i];
      const auto r = static_cast<Dim>(i);
      d_x_SD_.add_row(row.token, weighs_before() ? work.score(i) : Near{1, 0}, d_in_RD, r);
      if (weighs_before()) add_dot(dot_of(d_in_RD, r, tokens_.x_SD(), row.token), d_scores_SK_, row.token, row.slot);
    }
  }
}

// dW_down = d out^T act; dW_gate_up = d gate_up^T in. Roundings: those of GradExpertStages.
void WholeLayer::add_parameter_gradients(const Work& work, const Tracked& d_out_RD, const Tracked& d_gate_up_RG) {
  const model::Problem& problem = one_.problem;
  if (parameters_.empty()) return;
  const auto num_rows = static_cast<Dim>(work.rows.size());
  const Dim parts = problem.mesh.size(problem.expert_dims()) * static_cast<Dim>(parts_.size());
  const Dim replicas = problem.mesh.world_size() / parts;
  const bool is_batched = one_.experts_backend == "batched_mm";
  const Dim roundings = tolerance::countable_roundings((is_batched ? num_rows : 1) + replicas, problem.dtype);
  const StageBound stage(Stage::kGradient, problem.dtype, num_rows + replicas, roundings);
  const Tracked d_down_DF = stored(products(transposed(d_out_RD), transposed(work.act_RF)), stage);
  const Tracked d_gate_up_GD = stored(products(transposed(d_gate_up_RG), transposed(work.in_RD)), stage);
  for (ParameterGradient& gradient : parameters_) {
    const Dim rank = gradient.seen->rank;
    const trace::LocalExperts local = trace::local_experts(problem, rank);
    if (!local.has(work.expert)) continue;
    const auto rows = trace::declared_indices(problem, gradient.tap, rank, 1);
    const auto columns = trace::declared_indices(problem, gradient.tap, rank, 2);
    const Tracked shard = columns_of(rows_of(gradient.tap == kDown ? d_down_DF : d_gate_up_GD, rows), columns);
    fill(shard, gradient.into, (work.expert - local.first) * shard.value.size());
  }
}

void WholeLayer::skip(Dim expert) {
  for (const RoutedRow& row : tokens_.rows_of(expert)) is_complete_[static_cast<std::size_t>(row.token)] = 0;
  for (ParameterGradient& gradient : parameters_)
    if (const auto local = trace::local_experts(one_.problem, gradient.seen->rank); local.has(expert))
      gradient.into.is_comparable[static_cast<std::size_t>(expert - local.first)] = 0;
}

void WholeLayer::write_rows(std::string_view tap, const Tracked& all_S) {
  for (const ObservedRank& seen : layer_.ranks()) {
    if (!is_wanted(one_.problem, seen, expected_, tap)) continue;
    trace::WholeTap whole = make_whole(seen.trace->tensor(tap)->shape());
    std::vector<Dim> own;
    for (Dim t = 0; t < seen.num_tokens; ++t) {
      const Dim token = seen.first_token + t;
      const bool is_complete = tap == kScores || is_complete_[static_cast<std::size_t>(token)] != 0;
      whole.is_comparable[static_cast<std::size_t>(t)] = tokens_.is_known(token) && is_complete;
      own.push_back(token);
    }
    const Tracked rows = rows_of(all_S, own);
    fill(rows, whole, 0);
    whole.row_bound.assign(rows.norm.begin(), rows.norm.end());
    expected_.ranks[static_cast<std::size_t>(seen.rank)].whole.insert_or_assign(std::string(tap), std::move(whole));
  }
}

// Combined over K slots, on one rank or on several, and then over the ranks of the layer group.
void WholeLayer::write_output() {
  const base::DType store = one_.problem.dtype;
  const StageBound combine(Stage::kCombine, store, one_.problem.model.top_k * static_cast<Dim>(parts_.size()), 0);
  const StageBound reduction(Stage::kReduction, store, num_ranks(), 0);
  Tracked y_SD = stored(y_SD_, combine);
  const Matrix<double> combined = y_SD.bound;
  for (Dim i = 0; i < y_SD.value.size(); ++i) {
    const double summands = y_SD_.plain.data()[i] + combined.data()[i];
    y_SD.bound.data()[i] = tolerance::composed(reduction, y_SD.value.data()[i], combined.data()[i], summands, 0);
  }
  y_SD.norm += (y_SD.bound - combined).rowwise().norm();
  write_rows(kOutput, y_SD);
  for (const Partial& partial : partials_) {
    trace::WholeTap whole = make_whole({partial.sum.value.rows(), partial.sum.value.cols()});
    const Tracked sum = stored(partial.sum, combine);
    fill(sum, whole, 0);
    whole.row_bound.assign(sum.norm.begin(), sum.norm.end());
    for (std::size_t s = 0; s < partial.seen->slot_tokens_S.size(); ++s) {
      const Dim token = partial.seen->slot_tokens_S[s];
      const bool is_token = token >= 0 && token < one_.problem.total_tokens();
      whole.is_comparable[s] = is_token && tokens_.is_known(token) && is_complete_[static_cast<std::size_t>(token)] != 0;
    }
    expected_.ranks[static_cast<std::size_t>(partial.seen->rank)].whole.insert_or_assign(std::string(kPartial), std::move(whole));
  }
}

// Products stored before the sum, the sum, and the ranks' sums added up, as in expect_grad_scores.
void WholeLayer::write_routing_gradients() {
  const model::Problem& problem = one_.problem;
  const model::ModelSpec& spec = problem.model;
  const StageBound stage(Stage::kGradient, problem.dtype, spec.d_model * static_cast<Dim>(parts_.size()), 2 + num_ranks());
  const Tracked d_scores_SK = stored(d_scores_SK_, stage);
  write_rows("grad/scores_TK", d_scores_SK);
  const auto shown_scores = tokens_.recorded_rows(&ObservedRank::grad_scores_TK, spec.top_k);
  auto d_logits_SE = tokens_.recorded_rows(&ObservedRank::grad_logits_TE, spec.num_experts);
  if (tokens_.logits_SE()) {
    const Tracked& from = shown_scores ? *shown_scores : d_scores_SK;
    const Tracked computed = scores_backward(*tokens_.logits_SE(), tokens_.ids_SK(), from, spec, problem.dtype);
    write_rows("grad/logits_TE", computed);
    if (!d_logits_SE) d_logits_SE = computed;
  }
  if (!d_logits_SE) return;
  write_router(*d_logits_SE);
  if (w_router_ED_ != nullptr) write_dx(*d_logits_SE);
}

// dW_r = dl^T x, over all tokens.
void WholeLayer::write_router(const Tracked& d_logits_SE) {
  const model::Problem& problem = one_.problem;
  const bool is_known = tokens_.are_all_known() && std::ranges::none_of(is_complete_, [](std::uint8_t flag) { return flag == 0; });
  if (!is_known) return;
  const Dim shards = tolerance::countable_roundings(problem.mesh.size(problem.token_dims_text()), problem.dtype);
  const StageBound stage(Stage::kGradient, problem.dtype, 1 + problem.total_tokens(), shards);
  const Tracked d_router_ED = stored(products(transposed(d_logits_SE), transposed(tokens_.x_SD())), stage);
  for (const ObservedRank& seen : layer_.ranks()) {
    if (!is_wanted(problem, seen, expected_, kRouter)) continue;
    trace::WholeTap whole = make_whole(seen.trace->tensor(kRouter)->shape());
    const Tracked rows = rows_of(d_router_ED, trace::declared_indices(problem, kRouter, seen.rank, 0));
    fill(rows, whole, 0);
    whole.row_bound.assign(rows.norm.begin(), rows.norm.end());
    expected_.ranks[static_cast<std::size_t>(seen.rank)].whole.insert_or_assign(std::string(kRouter), std::move(whole));
  }
}

// The experts' part, and the router's: dl W_r. Roundings: those of GradExpertStages.
void WholeLayer::write_dx(const Tracked& d_logits_SE) {
  const model::Problem& problem = one_.problem;
  const Tracked w_DE = exactly(w_router_ED_->cast<double>().transpose());
  const StageBound product(Stage::kGradient, problem.dtype, problem.model.num_experts, 0);
  const Tracked router_SD = stored(products(d_logits_SE, w_DE), product);
  TrackedSum sum_SD = d_x_SD_;
  for (Dim t = 0; t < problem.total_tokens(); ++t) sum_SD.add_row(t, {1, 0}, router_SD, t);
  const Dim terms = problem.model.top_k * num_ranks() + 1;
  const Dim roundings = problem.model.top_k + num_ranks() + (weighs_before() ? 4 : 3);
  write_rows("grad/x_TD", stored(sum_SD, StageBound(Stage::kGradient, problem.dtype, terms, roundings)));
}

void WholeLayer::write() {
  if (tokens_.logits_SE()) write_rows(kScores, tokens_.own_scores_SK());
  write_output();
  if (!is_backward_) return;
  write_routing_gradients();
  for (ParameterGradient& gradient : parameters_) {
    const trace::LocalExperts local = trace::local_experts(one_.problem, gradient.seen->rank);
    for (Dim e = 0; e < local.count; ++e)
      if (tokens_.is_spoiled(local.first + e)) gradient.into.is_comparable[static_cast<std::size_t>(e)] = 0;
    expected_.ranks[static_cast<std::size_t>(gradient.seen->rank)].whole.insert_or_assign(gradient.tap, std::move(gradient.into));
  }
}

}  // namespace moecheck::reference
