#include "tests/unit/reference/observed_fixture.h"

#include <fmt/format.h>

namespace moecheck::reference {
namespace {

using trace::RankTrace;
using trace::Tapped;

Tapped whole(base::HostTensor tensor) { return {tensor, model::replicate(), "", tensor.shape()}; }

class SoundRank {
 public:
  SoundRank(const model::Problem& problem, Dim rank) : problem_(problem), generator_(problem), rank_(rank) {}

  RankTrace run() {
    const model::ModelSpec& spec = problem_.model;
    GeneratedWeights<double> weights(generator_);
    const auto x_TD = generated_tokens<double>(generator_, rank_);
    const auto logits_TE = router_logits(x_TD, weights.router_ED());
    const IdMatrix ids_TK = choose_experts(logits_TE, spec);
    const auto scores_TK = scores_from_logits(logits_TE, ids_TK, spec);
    RankTrace trace;
    trace.rank = rank_;
    trace.taps["input/x_TD"] = whole(tensor_of(x_TD));
    trace.taps["router/logits_TE"] = whole(tensor_of(logits_TE));
    trace.taps["router/ids_TK"] = whole(tensor_of(ids_TK));
    trace.taps["router/scores_TK"] = whole(tensor_of(scores_TK));
    run_experts(x_TD, ids_TK, scores_TK, weights, trace);
    return trace;
  }

 private:
  void run_experts(const Matrix<double>& x_TD, const IdMatrix& ids_TK, const Matrix<double>& scores_TK,
                   Weights<double>& weights, RankTrace& trace) const {
    const model::ModelSpec& spec = problem_.model;
    const Dispatch rows = dispatch(ids_TK, spec.num_experts);
    const Dim num_local = spec.num_experts / problem_.mesh.size("ep");
    const Dim first = problem_.mesh.coordinate(rank_, "ep") * num_local;
    const auto begin = rows.first_row[static_cast<std::size_t>(first)];
    const auto end = rows.first_row[static_cast<std::size_t>(first + num_local)];
    const auto num_rows = static_cast<Dim>(end - begin);
    const Dim tp = problem_.mesh.size("tp");
    const Dim f_local = spec.d_ff / tp;
    const Dim f_first = problem_.mesh.coordinate(rank_, "tp") * f_local;
    IdMatrix keys_R3(num_rows, 3);
    Matrix<double> gate_up_RG(num_rows, 2 * f_local), act_RF(num_rows, f_local), out_RD(num_rows, spec.d_model);
    Combine<double> combine(scores_TK, spec.d_model);
    Dim at = 0;
    for (Dim e = first; e < first + num_local; ++e) {
      const auto mine = rows.rows_of(e);
      const auto count = static_cast<Dim>(mine.size());
      const auto& w = weights.expert(e);
      for (Dim i = 0; i < count; ++i) {
        const RoutedRow& row = mine[static_cast<std::size_t>(i)];
        keys_R3.row(at + i) << row.token, row.slot, row.expert;
      }
      Matrix<double> w_local(2 * f_local, spec.d_model);
      w_local << w.w_gate_up_GD.middleRows(f_first, f_local), w.w_gate_up_GD.middleRows(spec.d_ff + f_first, f_local);
      gate_up_RG.middleRows(at, count) = gate_up<double>(gather_tokens(x_TD, mine), w_local);
      act_RF.middleRows(at, count) = swiglu<double>(gate_up_RG.middleRows(at, count));
      out_RD.middleRows(at, count) = down<double>(act_RF.middleRows(at, count), w.w_down_DF.middleCols(f_first, f_local));
      combine.add(mine, out_RD.middleRows(at, count));
      at += count;
    }
    trace.taps["dispatch/rows_R3"] = whole(tensor_of(keys_R3));
    trace.taps["experts/gate_up_RG"] = {tensor_of(gate_up_RG), model::strided_shard(1, 2), "tp", {num_rows, 2 * spec.d_ff}};
    trace.taps["experts/act_RF"] = {tensor_of(act_RF), model::shard(1), "tp", {num_rows, spec.d_ff}};
    trace.taps["experts/out_RD"] = {tensor_of(out_RD), model::partial(), "tp", {num_rows, spec.d_model}};
    const std::string over = problem_.mesh.has("tp") ? "tp" : "ep";
    trace.taps["combine/partial_TD"] = {tensor_of(combine.y_TD()), model::partial(), over, {x_TD.rows(), spec.d_model}};
  }

  const model::Problem& problem_;
  inputs::Generator generator_;
  Dim rank_;
};

bool same_tap(const trace::ExpectedTap& a, const trace::ExpectedTap& b) {
  return base::same_bytes(a.value, b.value) && base::same_bytes(a.magnitude, b.magnitude) && a.is_comparable == b.is_comparable;
}

}  // namespace

cases::Case small_case(const std::string& mesh, model::Values values) {
  cases::Case one;
  one.problem.model.num_experts = 12;
  one.problem.model.top_k = 2;
  one.problem.model.d_model = 20;
  one.problem.model.d_ff = 14;
  one.problem.mesh = model::Mesh::parse(mesh).value();
  one.problem.values = values;
  one.problem.tokens_per_rank = {7};
  one.problem.seed = 11;
  return one;
}

trace::Trace sound_trace(const cases::Case& one) {
  const model::Problem& problem = one.problem;
  trace::Trace trace;
  for (Dim r = 0; r < problem.mesh.world_size(); ++r) trace.ranks.push_back(SoundRank(problem, r).run());
  for (Dim r = 0; r < problem.mesh.world_size(); ++r) {
    const auto& partial = trace.ranks[static_cast<std::size_t>(r)].taps["combine/partial_TD"];
    Matrix<double> y_TD = Matrix<double>::Zero(partial.tensor.dim(0), partial.tensor.dim(1));
    for (const Dim member : problem.mesh.group(r, partial.mesh_dim))
      y_TD += matrix_of<double>(trace.ranks[static_cast<std::size_t>(member)].taps["combine/partial_TD"].tensor);
    trace.ranks[static_cast<std::size_t>(r)].taps["output/y_TD"] = whole(tensor_of(y_TD));
  }
  return trace;
}

trace::Trace perturbed(const trace::Trace& trace, std::size_t rank, const std::string& tap) {
  trace::Trace changed = trace;
  base::HostTensor& tensor = changed.ranks.at(rank).taps.at(tap).tensor;
  Matrix<double> matrix = matrix_of<double>(tensor);
  matrix(0, 0) += 1;
  tensor = tensor_of(matrix);
  return changed;
}

trace::Trace with_first_key(const trace::Trace& trace, std::vector<std::int64_t> token_slot_expert) {
  trace::Trace changed = trace;
  base::HostTensor& tensor = changed.ranks.at(0).taps.at("dispatch/rows_R3").tensor;
  IdMatrix keys_R3 = ids_of(tensor);
  for (std::size_t i = 0; i < 3; ++i) keys_R3(0, static_cast<Dim>(i)) = token_slot_expert.at(i);
  tensor = tensor_of(keys_R3);
  return changed;
}

std::vector<std::string> changed_taps(const trace::Expected& before, const trace::Expected& after) {
  std::vector<std::string> changed;
  for (std::size_t r = 0; r < before.ranks.size(); ++r) {
    const auto& now = after.ranks.at(r);
    for (const auto& [name, tap] : before.ranks[r].taps)
      if (!now.taps.contains(name) || !same_tap(tap, now.taps.at(name))) changed.push_back(fmt::format("{} {}", r, name));
    for (const auto& [name, tap] : now.taps)
      if (!before.ranks[r].taps.contains(name)) changed.push_back(fmt::format("{} {}", r, name));
    if (!base::same_bytes(before.ranks[r].end_to_end_TD, now.end_to_end_TD)) changed.push_back(fmt::format("{} end_to_end", r));
  }
  return changed;
}

}  // namespace moecheck::reference
