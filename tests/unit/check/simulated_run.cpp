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

float value(const HostTensor& tensor, Dim i) { return static_cast<float>(tensor.at(i)); }

}  // namespace

std::vector<Dim> indices(Dim first, Dim count) {
  std::vector<Dim> all(static_cast<std::size_t>(count));
  std::iota(all.begin(), all.end(), first);
  return all;
}

void put(trace::RankTrace& rank, const std::string& tap, HostTensor tensor) { rank.taps[tap] = {tensor, {}, tensor.shape()}; }

SimulatedRun::SimulatedRun(const std::string& knobs, Dispatch how) : one(case_of(knobs)), how_(how) {
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

Dim SimulatedRun::num_local_experts() const { return one.problem.model.num_experts / one.problem.mesh.size(one.problem.expert_dims()); }

Dim SimulatedRun::first_expert(Dim rank) const { return one.problem.mesh.coordinate(rank, one.problem.expert_dims()) * num_local_experts(); }

void SimulatedRun::forward(Dim batch) {
  for (trace::RankTrace& rank : observed.ranks) {
    put(rank, "input/x_TD", inputs::Generator(one.problem).tokens_TD(rank.rank, batch));
    route(rank);
  }
  for (trace::RankTrace& rank : observed.ranks) dispatch(rank);
  for (trace::RankTrace& rank : observed.ranks) compute(rank);
  combine_and_reduce();
}

void SimulatedRun::route(trace::RankTrace& rank) const {
  const auto& m = one.problem.model;
  const HostTensor &x_TD = *rank.tensor("input/x_TD"), w_ED = whole(rank.rank, "param/router/w_ED");
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

std::vector<Dim> SimulatedRun::slot_tokens(Dim rank) const {
  const model::Problem& problem = one.problem;
  std::vector<Dim> members = {rank};
  std::string dims;
  for (const std::string dim : {"ep", "tp"})
    if (how_ == Dispatch::kGathered && problem.shards_tokens(dim)) dims += (dims.empty() ? "" : ",") + dim;
  if (!dims.empty()) members = problem.mesh.group(rank, dims);
  std::vector<Dim> tokens;
  for (const Dim member : members)
    for (Dim t = 0; t < problem.num_tokens(member); ++t) tokens.push_back(problem.first_token(member) + t);
  return tokens;
}

// On the rank itself, else where it is found first.
SimulatedRun::Row SimulatedRun::owned(Dim rank, Dim token) const {
  const model::Problem& problem = one.problem;
  std::vector<Dim> members = problem.layer_group(rank);
  members.insert(members.begin(), rank);
  const auto holds = [&](Dim member) { return token >= problem.first_token(member) && token < problem.first_token(member) + problem.num_tokens(member); };
  const auto owner = std::ranges::find_if(members, holds);
  MOECHECK_REQUIRE(owner != members.end(), "token of another group");
  return {token, 0, 0, *owner, token - problem.first_token(*owner)};
}

// Tokens that several ranks hold are shared out among them, except over tp that cuts the experts: there each has its own part.
bool SimulatedRun::sends(Dim sender, Dim token, Dim receiver) const {
  const model::Problem& problem = one.problem;
  const Dim at = token - problem.first_token(sender);
  if (at < 0 || at >= problem.num_tokens(sender)) return false;
  const bool has_own_part = problem.cuts_experts() && !problem.shards_tokens("tp");
  if (has_own_part && problem.mesh.coordinate(sender, "tp") != problem.mesh.coordinate(receiver, "tp")) return false;
  std::string dims = problem.shards_tokens("ep") ? "none" : "ep";
  if (!problem.cuts_experts() && !problem.shards_tokens("tp")) dims += ",tp";
  return at % problem.mesh.size(dims) == problem.mesh.coordinate(sender, dims);
}

// What the local experts are given: the router's choice, masked.
void SimulatedRun::show_given(trace::RankTrace& rank, const std::vector<Row>& slots) const {
  const Dim local = num_local_experts(), top_k = one.problem.model.top_k;
  const base::Shape shape = {static_cast<Dim>(slots.size()) / top_k, top_k};
  HostTensor local_ids(base::DType::kI64, shape), local_scores(one.problem.dtype, shape);
  for (Dim n = 0; n < local_ids.numel(); ++n) {
    const Row& row = slots[static_cast<std::size_t>(n)];
    const Dim e = row.expert - first_expert(rank.rank);
    const bool is_local = e >= 0 && e < local;
    local_ids.set(n, static_cast<double>(is_local ? e : local));
    local_scores.set(n, is_local ? at(row.owner).tensor("router/scores_TK")->at(row.at * top_k + row.slot) : 0.0);
  }
  put(rank, "dispatch/ids_TK", local_ids);
  put(rank, "dispatch/scores_TK", local_scores);
}

void SimulatedRun::dispatch(trace::RankTrace& rank) const {
  std::vector<Row> slots;
  const auto add_token = [&](Dim owner, Dim token) {
    Row row = owned(owner, token);
    for (row.slot = 0; row.slot < one.problem.model.top_k; ++row.slot) {
      row.expert = at(row.owner).tensor("router/ids_TK")->int_at(row.at * one.problem.model.top_k + row.slot);
      slots.push_back(row);
    }
  };
  if (how_ == Dispatch::kAllToAll) {
    for (const Dim sender : one.problem.layer_group(rank.rank))
      for (const Dim token : slot_tokens(sender))
        if (sends(sender, token, rank.rank)) add_token(sender, token);
  } else {
    for (const Dim token : slot_tokens(rank.rank)) add_token(rank.rank, token);
    show_given(rank, slots);
  }
  if (how_ == Dispatch::kGathered) {
    const auto tokens = slot_tokens(rank.rank);
    put(rank, "dispatch/tokens_S", base::tensor_from_ints({static_cast<Dim>(tokens.size())}, tokens));
  }
  HostTensor counts_e(base::DType::kI64, {num_local_experts()});
  std::vector<Dim> rows;
  for (Dim e = 0; e < num_local_experts(); ++e)
    for (const Row& row : slots) {
      if (row.expert != first_expert(rank.rank) + e) continue;
      rows.insert(rows.end(), {row.token, row.slot, row.expert});
      counts_e.set(e, counts_e.at(e) + 1);
    }
  put(rank, "dispatch/counts_e", counts_e);
  put(rank, "dispatch/rows_R3", base::tensor_from_ints({static_cast<Dim>(rows.size()) / 3, 3}, rows));
}

void SimulatedRun::compute(trace::RankTrace& rank) const {
  const auto& m = one.problem.model;
  const HostTensor& rows_R3 = *rank.tensor("dispatch/rows_R3");
  const HostTensor w_gate_up = whole(rank.rank, "param/experts/gate_up_EGD"), w_down = whole(rank.rank, "param/experts/down_EDF");
  const Dim rows = rows_R3.dim(0), D = m.d_model, G = w_gate_up.dim(1), F = G / 2;
  HostTensor in(one.problem.dtype, {rows, D}), gate_up(one.problem.dtype, {rows, G}), act(one.problem.dtype, {rows, F}), out(one.problem.dtype, {rows, D});
  for (Dim r = 0; r < rows; ++r) {
    const Row from = owned(rank.rank, rows_R3.int_at(3 * r));
    const Dim e = rows_R3.int_at(3 * r + 2) - first_expert(rank.rank);
    const bool is_weighted = one.problem.score_position == model::ScorePosition::kBeforeExperts;
    const float score = is_weighted ? value(*at(from.owner).tensor("router/scores_TK"), from.at * m.top_k + rows_R3.int_at(3 * r + 1)) : 1.0F;
    for (Dim d = 0; d < D; ++d) in.set(r * D + d, static_cast<double>(score * value(*at(from.owner).tensor("input/x_TD"), from.at * D + d)));
    for (Dim g = 0; g < G; ++g) {
      float sum = 0;
      for (Dim d = 0; d < D; ++d) sum += value(in, r * D + d) * value(w_gate_up, (e * G + g) * D + d);
      gate_up.set(r * G + g, static_cast<double>(sum));
    }
    for (Dim f = 0; f < F; ++f) {
      const float gate = value(gate_up, r * G + f);
      const double silu = base::round_to(one.problem.dtype, static_cast<double>(gate / (1.0F + std::exp(-gate))));
      act.set(r * F + f, static_cast<double>(static_cast<float>(silu) * value(gate_up, r * G + F + f)));
    }
    for (Dim d = 0; d < D; ++d) {
      float sum = 0;
      for (Dim f = 0; f < F; ++f) sum += value(act, r * F + f) * value(w_down, (e * D + d) * F + f);
      out.set(r * D + d, static_cast<double>(sum));
    }
  }
  put(rank, "experts/in_RD", in);
  put(rank, "experts/gate_up_RG", gate_up);
  put(rank, "experts/act_RF", act);
  put(rank, "experts/out_RD", out);
}

void SimulatedRun::sum_row(const trace::RankTrace& computer, Dim row, double score, HostTensor& partial, Dim to) const {
  const Dim D = one.problem.model.d_model;
  const bool is_weighted = one.problem.score_position == model::ScorePosition::kAfterExperts;
  const HostTensor& out = *computer.tensor("experts/out_RD");
  for (Dim d = 0; d < D; ++d) {
    const float weight = is_weighted ? static_cast<float>(score) : 1.0F;
    const double product = base::round_to(one.problem.dtype, static_cast<double>(weight * value(out, row * D + d)));
    partial.set(to * D + d, partial.at(to * D + d) + product);
  }
}

void SimulatedRun::combine(trace::RankTrace& rank) const {
  const Dim top_k = one.problem.model.top_k;
  const bool is_all_to_all = how_ == Dispatch::kAllToAll;
  const auto tokens = slot_tokens(rank.rank);
  const HostTensor& scores = *rank.tensor(is_all_to_all ? "router/scores_TK" : "dispatch/scores_TK");
  HostTensor partial(one.problem.dtype, {static_cast<Dim>(tokens.size()), one.problem.model.d_model});
  std::vector<Dim> combined;
  for (const Dim computer : is_all_to_all ? one.problem.layer_group(rank.rank) : std::vector<Dim>{rank.rank}) {
    const HostTensor& rows_R3 = *at(computer).tensor("dispatch/rows_R3");
    for (Dim r = 0; r < rows_R3.dim(0); ++r) {
      const Dim token = rows_R3.int_at(3 * r), slot = rows_R3.int_at(3 * r + 1), expert = rows_R3.int_at(3 * r + 2);
      if (expert < 0 || (is_all_to_all && !sends(rank.rank, token, computer))) continue;
      const Dim to = std::ranges::find(tokens, token) - tokens.begin();
      sum_row(at(computer), r, scores.at(to * top_k + slot), partial, to);
      combined.insert(combined.end(), {token, slot, expert});
    }
  }
  if (is_all_to_all) put(rank, "combine/rows_N3", base::tensor_from_ints({static_cast<Dim>(combined.size()) / 3, 3}, combined));
  put(rank, "combine/partial_TD", partial);
  const bool over_ep = one.problem.mesh.size("ep") > 1, over_tp = one.problem.mesh.size("tp") > 1;
  if (!is_all_to_all && (over_ep || over_tp))
    rank.taps["combine/partial_TD"].cuts = {{over_ep && over_tp ? "ep,tp" : over_ep ? "ep" : "tp", model::partial()}};
}

void SimulatedRun::combine_and_reduce() {
  for (trace::RankTrace& rank : observed.ranks) combine(rank);
  reduce();
}

// The sum of what the ranks of the layer group have for a token.
void SimulatedRun::reduce() {
  const Dim D = one.problem.model.d_model;
  for (trace::RankTrace& rank : observed.ranks) {
    HostTensor y_TD(one.problem.dtype, {one.problem.num_tokens(rank.rank), D});
    for (const Dim other : one.problem.layer_group(rank.rank)) {
      const auto tokens = slot_tokens(other);
      for (Dim t = 0; t < y_TD.dim(0); ++t) {
        const Dim from = std::ranges::find(tokens, one.problem.first_token(rank.rank) + t) - tokens.begin();
        for (Dim d = 0; from < static_cast<Dim>(tokens.size()) && d < D; ++d)
          y_TD.set(t * D + d, y_TD.at(t * D + d) + at(other).tensor("combine/partial_TD")->at(from * D + d));
      }
    }
    put(rank, "output/y_TD", y_TD);
  }
}

HostTensor& SimulatedRun::tensor(Dim rank, const std::string& tap) { return observed.ranks.at(static_cast<std::size_t>(rank)).taps.at(tap).tensor; }

Dim SimulatedRun::row_of(Dim rank, Dim token, Dim slot) {
  const HostTensor& rows_R3 = tensor(rank, "dispatch/rows_R3");
  for (Dim r = 0; r < rows_R3.dim(0); ++r)
    if (rows_R3.int_at(3 * r) == one.problem.first_token(rank) + token && rows_R3.int_at(3 * r + 1) == slot) return r;
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
  const trace::Expected expected = reference::evaluate(one, {&observed, 1});
  return find_check(name)->run({one, expected, observed, failures});
}

CheckOutcome SimulatedRun::check_observed(const std::string& name) const {
  const trace::Expected nothing{std::vector<trace::ExpectedRank>(observed.ranks.size())};
  return find_check(name)->run({one, nothing, observed, failures});
}

record::CaseRecord SimulatedRun::judged() const {
  const trace::Expected expected = reference::evaluate(one, {&observed, 1});
  return judge_alone(one, {&expected, 1}, {&observed, 1}, failures).value();
}

base::Result<record::CaseRecord> judge_alone(const cases::Case& one, std::span<const trace::Expected> expected, std::span<const trace::Trace> batches,
                                             std::vector<PhaseFailure> failures) {
  const std::vector<cases::Life> lives = cases::lives_of(one);
  const LifeInput life{lives[0], batches[0], batches, expected};
  return judge({one, {&life, 1}, std::move(failures)});
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
