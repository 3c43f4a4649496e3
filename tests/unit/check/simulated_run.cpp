#include "simulated_run.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "harness/inputs/generator.h"
#include "reference/evaluate.h"

namespace moecheck::check {
namespace {

using base::HostTensor;
using model::Dim;

cases::Case case_of(const std::string& knobs) {
  auto parsed = cases::parse_case_id("impl=ep_allreduce model=tiny " + knobs);
  cases::KnobValues values = *parsed;
  values.try_emplace("tokens", "7,5");
  const auto load_family = [](std::string_view family) -> base::Result<model::ModelSpec> {
    model::ModelSpec spec;
    spec.family = family;
    spec.num_experts = 12;
    spec.top_k = 3;
    spec.d_model = 14;
    spec.d_ff = 10;
    return spec;
  };
  return cases::make_case(values, load_family).value();
}

std::vector<Dim> indices(Dim first, Dim count) {
  std::vector<Dim> all(static_cast<std::size_t>(count));
  std::iota(all.begin(), all.end(), first);
  return all;
}

float value(const HostTensor& tensor, Dim i) { return static_cast<float>(tensor.at(i)); }

void put(trace::RankTrace& rank, const std::string& tap, HostTensor tensor) {
  rank.taps[tap] = {tensor, model::replicate(), "", tensor.shape()};
}

}  // namespace

SimulatedRun::SimulatedRun(const std::string& knobs) : one(case_of(knobs)) {
  for (Dim r = 0; r < one.world_size(); ++r) {
    trace::RankTrace rank;
    rank.rank = r;
    rank.implementation = one.impl;
    rank.experts_backend = one.experts_backend;
    load(rank);
    observed.ranks.push_back(std::move(rank));
  }
  forward();
}

HostTensor SimulatedRun::experts_part(const std::string& tap, const std::vector<Dim>& experts, const std::vector<Dim>& rows,
                                      const std::vector<Dim>& columns) const {
  const inputs::Generator generator(one.problem);
  const bool is_down = tap == "param/experts/down_EDF";
  std::vector<float> row(static_cast<std::size_t>(is_down ? one.problem.model.d_ff : one.problem.model.d_model));
  HostTensor part(one.problem.dtype, {static_cast<Dim>(experts.size()), static_cast<Dim>(rows.size()), static_cast<Dim>(columns.size())});
  Dim at = 0;
  for (const Dim e : experts)
    for (const Dim r : rows) {
      if (is_down) generator.down_row(e, r, row);
      else generator.gate_up_row(e, r, row);
      for (const Dim c : columns) part.set(at++, static_cast<double>(row[static_cast<std::size_t>(c)]));
    }
  return part;
}

void SimulatedRun::load(trace::RankTrace& rank) const {
  const inputs::Generator generator(one.problem);
  const auto& m = one.problem.model;
  const Dim ep = one.problem.mesh.size("ep"), tp = one.problem.mesh.size("tp");
  const Dim c_tp = one.problem.mesh.coordinate(rank.rank, "tp");
  const auto experts = indices(one.problem.mesh.coordinate(rank.rank, "ep") * (m.num_experts / ep), m.num_experts / ep);
  const auto columns_F = indices(c_tp * (m.d_ff / tp), m.d_ff / tp);
  auto rows_G = columns_F;
  for (const Dim f : columns_F) rows_G.push_back(m.d_ff + f);
  put(rank, "param/experts/gate_up_EGD", experts_part("param/experts/gate_up_EGD", experts, rows_G, indices(0, m.d_model)));
  put(rank, "param/experts/down_EDF", experts_part("param/experts/down_EDF", experts, indices(0, m.d_model), columns_F));
  put(rank, "param/router/w_ED", generator.router_ED());
  const HostTensor whole = generator.attention_DD();
  HostTensor attention(one.problem.dtype, {m.d_model, m.d_model / tp});
  for (Dim i = 0; i < attention.numel(); ++i)
    attention.set(i, whole.at(i / attention.dim(1) * m.d_model + c_tp * attention.dim(1) + i % attention.dim(1)));
  put(rank, "param/attention/w_DD", attention);
}

void SimulatedRun::forward() {
  for (trace::RankTrace& rank : observed.ranks) {
    put(rank, "input/x_TD", inputs::Generator(one.problem).tokens_TD(rank.rank));
    route(rank);
    dispatch(rank);
    compute(rank);
  }
  combine_and_reduce();
}

void SimulatedRun::route(trace::RankTrace& rank) const {
  const auto& m = one.problem.model;
  const HostTensor &x_TD = *rank.tensor("input/x_TD"), &w_ED = *rank.tensor("param/router/w_ED");
  const Dim tokens = x_TD.dim(0);
  HostTensor logits_TE(one.problem.dtype, {tokens, m.num_experts}), scores_TK(one.problem.dtype, {tokens, m.top_k});
  HostTensor ids_TK(base::DType::kI64, {tokens, m.top_k});
  for (Dim t = 0; t < tokens; ++t) {
    std::vector<float> p;
    for (Dim e = 0; e < m.num_experts; ++e) {
      float sum = 0;
      for (Dim d = 0; d < m.d_model; ++d) sum += value(x_TD, t * m.d_model + d) * value(w_ED, e * m.d_model + d);
      logits_TE.set(t * m.num_experts + e, static_cast<double>(sum));
      p.push_back(value(logits_TE, t * m.num_experts + e));
    }
    auto order = indices(0, m.num_experts);
    std::ranges::stable_sort(order, [&](Dim a, Dim b) { return p[static_cast<std::size_t>(a)] > p[static_cast<std::size_t>(b)]; });
    const float top = p[static_cast<std::size_t>(order[0])];
    float all = 0, chosen = 0;
    for (float& v : p) all += v = std::exp(v - top);
    for (float& v : p) v /= all;
    for (Dim k = 0; k < m.top_k; ++k) chosen += p[static_cast<std::size_t>(order[static_cast<std::size_t>(k)])];
    for (Dim k = 0; k < m.top_k; ++k) {
      const Dim e = order[static_cast<std::size_t>(k)];
      ids_TK.set(t * m.top_k + k, static_cast<double>(e));
      scores_TK.set(t * m.top_k + k, static_cast<double>(p[static_cast<std::size_t>(e)] / chosen));
    }
  }
  put(rank, "router/logits_TE", logits_TE);
  put(rank, "router/scores_TK", scores_TK);
  put(rank, "router/ids_TK", ids_TK);
}

void SimulatedRun::dispatch(trace::RankTrace& rank) const {
  const Dim local = one.problem.model.num_experts / one.problem.mesh.size("ep");
  const Dim first = one.problem.mesh.coordinate(rank.rank, "ep") * local;
  const HostTensor &ids_TK = *rank.tensor("router/ids_TK"), &scores_TK = *rank.tensor("router/scores_TK");
  HostTensor local_ids(base::DType::kI64, ids_TK.shape()), local_scores(one.problem.dtype, ids_TK.shape());
  HostTensor counts_e(base::DType::kI64, {local});
  std::vector<Dim> rows;
  for (Dim n = 0; n < ids_TK.numel(); ++n) {
    const Dim e = ids_TK.int_at(n) - first;
    const bool is_local = e >= 0 && e < local;
    local_ids.set(n, static_cast<double>(is_local ? e : local));
    local_scores.set(n, is_local ? scores_TK.at(n) : 0.0);
    if (is_local) counts_e.set(e, counts_e.at(e) + 1);
  }
  for (Dim e = 0; e < local; ++e)
    for (Dim n = 0; n < ids_TK.numel(); ++n)
      if (local_ids.int_at(n) == e) rows.insert(rows.end(), {n / ids_TK.dim(1), n % ids_TK.dim(1), first + e});
  put(rank, "dispatch/ids_TK", local_ids);
  put(rank, "dispatch/scores_TK", local_scores);
  put(rank, "dispatch/counts_e", counts_e);
  put(rank, "dispatch/rows_R3", base::tensor_from_ints({static_cast<Dim>(rows.size()) / 3, 3}, rows));
}

void SimulatedRun::compute(trace::RankTrace& rank) const {
  const auto& m = one.problem.model;
  const Dim first = one.problem.mesh.coordinate(rank.rank, "ep") * (m.num_experts / one.problem.mesh.size("ep"));
  const HostTensor &x_TD = *rank.tensor("input/x_TD"), &rows_R3 = *rank.tensor("dispatch/rows_R3");
  const HostTensor &w_gate_up = *rank.tensor("param/experts/gate_up_EGD"), &w_down = *rank.tensor("param/experts/down_EDF");
  const Dim rows = rows_R3.dim(0), G = w_gate_up.dim(1), F = G / 2;
  HostTensor gate_up(one.problem.dtype, {rows, G}), act(one.problem.dtype, {rows, F}), out(one.problem.dtype, {rows, m.d_model});
  for (Dim r = 0; r < rows; ++r) {
    const Dim t = rows_R3.int_at(3 * r), e = std::clamp<Dim>(rows_R3.int_at(3 * r + 2) - first, 0, w_gate_up.dim(0) - 1);
    for (Dim g = 0; g < G; ++g) {
      float sum = 0;
      for (Dim d = 0; d < m.d_model; ++d) sum += value(x_TD, t * m.d_model + d) * value(w_gate_up, (e * G + g) * m.d_model + d);
      gate_up.set(r * G + g, static_cast<double>(sum));
    }
    for (Dim f = 0; f < F; ++f) {
      const float gate = value(gate_up, r * G + f);
      const double silu = base::round_to(one.problem.dtype, static_cast<double>(gate / (1.0F + std::exp(-gate))));
      act.set(r * F + f, static_cast<double>(static_cast<float>(silu) * value(gate_up, r * G + F + f)));
    }
    for (Dim d = 0; d < m.d_model; ++d) {
      float sum = 0;
      for (Dim f = 0; f < F; ++f) sum += value(act, r * F + f) * value(w_down, (e * m.d_model + d) * F + f);
      out.set(r * m.d_model + d, static_cast<double>(sum));
    }
  }
  put(rank, "experts/gate_up_RG", gate_up);
  put(rank, "experts/act_RF", act);
  put(rank, "experts/out_RD", out);
}

void SimulatedRun::combine(trace::RankTrace& rank) const {
  const auto& m = one.problem.model;
  const HostTensor &rows_R3 = *rank.tensor("dispatch/rows_R3"), &out = *rank.tensor("experts/out_RD"), &scores = *rank.tensor("dispatch/scores_TK");
  HostTensor partial(one.problem.dtype, rank.tensor("input/x_TD")->shape());
  for (Dim r = 0; r < rows_R3.dim(0); ++r)
    for (Dim d = 0; d < m.d_model; ++d) {
      if (rows_R3.int_at(3 * r + 2) < 0) continue;
      const Dim t = rows_R3.int_at(3 * r), n = t * m.top_k + rows_R3.int_at(3 * r + 1);
      const double product = base::round_to(one.problem.dtype, static_cast<double>(value(scores, n) * value(out, r * m.d_model + d)));
      partial.set(t * m.d_model + d, partial.at(t * m.d_model + d) + product);
    }
  put(rank, "combine/partial_TD", partial);
  const bool is_partial = one.problem.mesh.size("ep") * one.problem.mesh.size("tp") > 1;
  if (!is_partial) return;
  rank.taps["combine/partial_TD"].placement = model::partial();
  rank.taps["combine/partial_TD"].mesh_dim = one.problem.mesh.has("ep") ? "ep" : "tp";
}

void SimulatedRun::combine_and_reduce() {
  for (trace::RankTrace& rank : observed.ranks) combine(rank);
  reduce();
}

void SimulatedRun::reduce() {
  for (trace::RankTrace& rank : observed.ranks) {
    HostTensor y_TD(one.problem.dtype, rank.tensor("input/x_TD")->shape());
    for (const trace::RankTrace& other : observed.ranks)
      if (one.problem.mesh.coordinate(other.rank, "dp") == one.problem.mesh.coordinate(rank.rank, "dp"))
        for (Dim i = 0; i < y_TD.numel(); ++i) y_TD.set(i, y_TD.at(i) + other.tensor("combine/partial_TD")->at(i));
    put(rank, "output/y_TD", y_TD);
  }
}

HostTensor& SimulatedRun::tensor(Dim rank, const std::string& tap) { return observed.ranks.at(static_cast<std::size_t>(rank)).taps.at(tap).tensor; }

Dim SimulatedRun::row_of(Dim rank, Dim token, Dim slot) {
  const HostTensor& rows_R3 = tensor(rank, "dispatch/rows_R3");
  for (Dim r = 0; r < rows_R3.dim(0); ++r)
    if (rows_R3.int_at(3 * r) == token && rows_R3.int_at(3 * r + 1) == slot) return r;
  return -1;
}

Dim SimulatedRun::id(Dim rank, Dim token, Dim slot) { return tensor(rank, "router/ids_TK").int_at(token * one.problem.model.top_k + slot); }

SimulatedRun::Place SimulatedRun::first_slot(Dim rank, bool is_local) {
  for (Dim t = 0; t < one.problem.num_tokens(rank); ++t)
    for (Dim s = 0; s < one.problem.model.top_k; ++s)
      if ((row_of(rank, t, s) >= 0) == is_local) return {t, s, id(rank, t, s)};
  return {};
}

CheckOutcome SimulatedRun::check(const std::string& name) const {
  const trace::Expected expected = reference::evaluate(one, observed);
  return find_check(name)->run({one, expected, observed, failures});
}

record::CaseRecord SimulatedRun::judged() const {
  const trace::Expected expected = reference::evaluate(one, observed);
  return judge({one, expected, observed, failures}).value();
}

const record::Finding& first_failure(const CheckOutcome& outcome) {
  const auto found = std::ranges::find_if(outcome.findings, [](const record::Finding& f) { return record::is_failure(f); });
  MOECHECK_REQUIRE(found != outcome.findings.end(), "no failing finding");
  return *found;
}

std::string messages(const CheckOutcome& outcome) {
  std::string all;
  for (const record::Finding& f : outcome.findings)
    all += f.stage + " rank " + std::to_string(f.rank.value_or(-1)) + ": " + f.message + " [" + f.hypothesis + "]\n";
  return all;
}

}  // namespace moecheck::check
