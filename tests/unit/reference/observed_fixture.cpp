#include "tests/unit/reference/observed_fixture.h"

#include <cmath>
#include <limits>

#include <fmt/format.h>

#include "harness/trace/layout.h"
#include "reference/evaluate.h"

namespace moecheck::reference {
namespace {

using trace::RankTrace;

constexpr const char* kGateUp = "param/experts/gate_up_EGD";
constexpr const char* kDown = "param/experts/down_EDF";

Matrix<double> stacked(const std::vector<Matrix<double>>& rows, Dim columns) {
  Matrix<double> result(static_cast<Dim>(rows.size()), columns);
  for (std::size_t i = 0; i < rows.size(); ++i) result.row(static_cast<Dim>(i)) = rows[i];
  return result;
}

base::HostTensor keys_tensor(const std::vector<RoutedRow>& rows) {
  IdMatrix keys_R3(static_cast<Dim>(rows.size()), 3);
  for (std::size_t i = 0; i < rows.size(); ++i) keys_R3.row(static_cast<Dim>(i)) << rows[i].token, rows[i].slot, rows[i].expert;
  return tensor_of(keys_R3);
}

class SoundLayer {
 public:
  SoundLayer(const model::Problem& problem, Exchange exchange, Dim batch, StoredWeights<double>& weights)
      : problem_(problem), exchange_(exchange), weights_(weights) {
    const inputs::Generator generator(problem);
    x_SD_.resize(problem.total_tokens(), problem.model.d_model);
    for (Dim r = 0; r < problem.mesh.world_size(); ++r)
      x_SD_.middleRows(problem.first_token(r), problem.num_tokens(r)) = generated_tokens<double>(generator, r, batch);
    logits_SE_ = router_logits(x_SD_, weights.router_ED());
    ids_SK_ = choose_experts(logits_SE_, problem.model);
    scores_SK_ = scores_from_logits(logits_SE_, ids_SK_, problem.model);
  }

  trace::Trace run() {
    const Dim ranks = problem_.mesh.world_size();
    for (Dim r = 0; r < ranks; ++r) trace_.ranks.push_back(computing_rank(r));
    for (Dim r = 0; r < ranks; ++r) combine(r);
    for (Dim r = 0; r < ranks; ++r) finish(r);
    return std::move(trace_);
  }

 private:
  bool has_all_to_all() const { return exchange_ == Exchange::kAllToAll; }
  bool weighs_before() const { return problem_.score_position == model::ScorePosition::kBeforeExperts; }
  RankTrace& of(Dim rank) { return trace_.ranks[static_cast<std::size_t>(rank)]; }

  std::vector<Dim> own_tokens(Dim rank) const {
    RankTrace bare;
    bare.rank = rank;
    return trace::slot_tokens(problem_, bare);
  }
  // Own tokens of each shard of the layer group, once.
  std::vector<Dim> gathered_tokens(Dim rank) const {
    std::vector<Dim> tokens;
    for (const Dim member : problem_.layer_group(rank))
      for (const Dim token : own_tokens(member))
        if (std::ranges::find(tokens, token) == tokens.end()) tokens.push_back(token);
    return tokens;
  }
  // Of replicas in the exchange the c-th sends every n-th token.
  std::vector<Dim> sent_tokens(Dim rank) const {
    std::vector<Dim> peers, sent;
    for (const Dim member : problem_.mesh.group(rank, problem_.expert_dims()))
      if (problem_.first_token(member) == problem_.first_token(rank)) peers.push_back(member);
    const Dim place = std::ranges::find(peers, rank) - peers.begin();
    for (const Dim token : own_tokens(rank))
      if (token % static_cast<Dim>(peers.size()) == place) sent.push_back(token);
    return sent;
  }
  void append_rows(const std::vector<Dim>& tokens, Dim rank, std::vector<RoutedRow>& rows) const {
    const trace::LocalExperts local = trace::local_experts(problem_, rank);
    for (Dim e = local.first; e < local.first + local.count; ++e)
      for (const Dim token : tokens)
        for (Dim k = 0; k < problem_.model.top_k; ++k)
          if (ids_SK_(token, k) == e) rows.push_back({token, k, e});
  }
  std::vector<RoutedRow> computed_rows(Dim rank) const {
    std::vector<RoutedRow> rows;
    if (!has_all_to_all()) append_rows(gathered_tokens(rank), rank, rows);
    if (has_all_to_all())
      for (const Dim sender : problem_.mesh.group(rank, problem_.expert_dims())) append_rows(sent_tokens(sender), rank, rows);
    return rows;
  }

  RankTrace computing_rank(Dim r) {
    const Dim first = problem_.first_token(r), count = problem_.num_tokens(r);
    RankTrace trace;
    trace.rank = r;
    trace.taps["input/x_TD"] = whole(tensor_of(Matrix<double>(x_SD_.middleRows(first, count))));
    trace.taps["router/logits_TE"] = whole(tensor_of(Matrix<double>(logits_SE_.middleRows(first, count))));
    trace.taps["router/ids_TK"] = whole(tensor_of(IdMatrix(ids_SK_.middleRows(first, count))));
    trace.taps["router/scores_TK"] = whole(tensor_of(Matrix<double>(scores_SK_.middleRows(first, count))));
    const auto g = model::held_indices(trace::compute_cuts(problem_, kGateUp), problem_.model.gate_up_rows(), 1, problem_.mesh, r);
    const auto f = model::held_indices(trace::compute_cuts(problem_, kDown), problem_.model.d_ff, 2, problem_.mesh, r);
    std::vector<Matrix<double>> in, gate_ups, acts, outs;
    const std::vector<RoutedRow> rows = computed_rows(r);
    for (const RoutedRow& row : rows) {
      const auto& w = weights_.expert(row.expert);
      in.push_back(x_SD_.row(row.token) * (weighs_before() ? scores_SK_(row.token, row.slot) : 1.0));
      gate_ups.push_back(gate_up<double>(in.back(), w.w_gate_up_GD(g, Eigen::all)));
      acts.push_back(swiglu<double>(gate_ups.back(), problem_.model.activation));
      outs.push_back(down<double>(acts.back(), w.w_down_DF(Eigen::all, f)));
    }
    trace.taps["dispatch/rows_R3"] = whole(keys_tensor(rows));
    trace.taps["experts/in_RD"] = whole(tensor_of(stacked(in, x_SD_.cols())));
    trace.taps["experts/gate_up_RG"] = whole(tensor_of(stacked(gate_ups, static_cast<Dim>(g.size()))));
    trace.taps["experts/act_RF"] = whole(tensor_of(stacked(acts, static_cast<Dim>(f.size()))));
    trace.taps["experts/out_RD"] = whole(tensor_of(stacked(outs, x_SD_.cols())));
    return trace;
  }

  Matrix<double> output_of(Dim rank, const RoutedRow& key) {
    const IdMatrix keys = ids_of(*of(rank).tensor("dispatch/rows_R3"));
    for (Dim i = 0; i < keys.rows(); ++i)
      if (keys(i, 0) == key.token && keys(i, 1) == key.slot && keys(i, 2) == key.expert)
        return matrix_of<double>(*of(rank).tensor("experts/out_RD")).row(i);
    MOECHECK_REQUIRE(false, "a row that nobody computed");
    return {};
  }

  void combine(Dim r) {
    const std::vector<Dim> tokens = has_all_to_all() ? own_tokens(r) : gathered_tokens(r);
    Matrix<double> partial_SD = Matrix<double>::Zero(static_cast<Dim>(tokens.size()), x_SD_.cols());
    std::vector<RoutedRow> combined;
    for (const Dim computer : has_all_to_all() ? problem_.mesh.group(r, problem_.expert_dims()) : std::vector<Dim>{r}) {
      std::vector<RoutedRow> rows;
      append_rows(has_all_to_all() ? sent_tokens(r) : tokens, computer, rows);
      for (const RoutedRow& row : rows) {
        const Dim place = std::ranges::find(tokens, row.token) - tokens.begin();
        partial_SD.row(place) += (weighs_before() ? 1.0 : scores_SK_(row.token, row.slot)) * output_of(computer, row);
        combined.push_back(row);
      }
    }
    if (has_all_to_all()) of(r).taps["combine/rows_N3"] = whole(keys_tensor(combined));
    if (tokens != own_tokens(r)) of(r).taps["dispatch/tokens_S"] = whole(base::tensor_from_ints({static_cast<Dim>(tokens.size())}, tokens));
    of(r).taps["combine/partial_TD"] = whole(tensor_of(partial_SD));
    of(r).taps["combine/partial_TD"].cuts = {{"ep,tp", model::partial()}};
  }

  void finish(Dim r) {
    const std::vector<Dim> own = own_tokens(r);
    Matrix<double> y_TD = Matrix<double>::Zero(static_cast<Dim>(own.size()), x_SD_.cols());
    for (const Dim member : problem_.layer_group(r)) {
      const std::vector<Dim> tokens = trace::slot_tokens(problem_, of(member));
      const Matrix<double> partial = matrix_of<double>(*of(member).tensor("combine/partial_TD"));
      for (std::size_t s = 0; s < tokens.size(); ++s)
        if (const auto found = std::ranges::find(own, tokens[s]); found != own.end()) y_TD.row(found - own.begin()) += partial.row(static_cast<Dim>(s));
    }
    of(r).taps["output/y_TD"] = whole(tensor_of(y_TD));
  }

  const model::Problem& problem_;
  Exchange exchange_;
  StoredWeights<double>& weights_;
  Matrix<double> x_SD_, logits_SE_, scores_SK_;
  IdMatrix ids_SK_;
  trace::Trace trace_;
};

bool same_tap(const trace::ExpectedTap& a, const trace::ExpectedTap& b) {
  return base::same_bytes(a.value, b.value) && base::same_bytes(a.magnitude, b.magnitude) && a.is_comparable == b.is_comparable;
}

}  // namespace

trace::Tapped whole(base::HostTensor tensor) { return {tensor, {}, tensor.shape()}; }

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

cases::Case small_case(const std::string& mesh, const std::vector<std::string>& tokens_over) {
  cases::Case one = small_case(mesh, model::Values::kNormal);
  one.problem.token_dims = tokens_over;
  return one;
}

std::vector<Layout> layouts() {
  using Names = std::vector<std::string>;
  const Names data = {"dp", "fsdp"}, over_ep = {"dp", "fsdp", "ep"}, over_tp = {"dp", "fsdp", "tp"};
  std::vector<Layout> all = {
      {"one_rank", small_case("none", data)},
      {"replicated_over_ep", small_case("ep=2", data)},
      {"replicated_over_tp", small_case("tp=2", data)},
      {"dp_and_ep", small_case("ep=2,dp=2", data)},
      {"ep_and_tp", small_case("ep=2,tp=2", data)},
      {"lent_tp", small_case("ep=2,tp=2", data)},
      {"fsdp_and_ep", small_case("fsdp=2,ep=2", over_ep), Exchange::kAllToAll},
      {"fsdp_and_tp", small_case("fsdp=2,tp=2", data)},
      {"gathered_over_ep", small_case("dp=2,ep=2", over_ep)},
      {"gathered_over_tp", small_case("ep=2,tp=2", over_tp)},
      {"all_to_all_uneven", small_case("ep=2", over_ep), Exchange::kAllToAll},
      {"all_to_all_empty", small_case("ep=2", over_ep), Exchange::kAllToAll},
      {"all_to_all_of_slices", small_case("dp=2,ep=2", data), Exchange::kAllToAll},
      {"all_to_all_with_cut_experts", small_case("ep=2,tp=2", over_ep), Exchange::kAllToAll},
      {"all_to_all_over_lent_tp", small_case("ep=2,tp=2", over_ep), Exchange::kAllToAll},
  };
  const std::size_t num_plain = all.size();
  for (std::size_t i = 0; i < num_plain; ++i) {
    Layout& layout = all[i];
    layout.one.problem.tokens_per_rank = layout.name == "all_to_all_empty" ? std::vector<Dim>{6, 0} : std::vector<Dim>{7, 5};
    if (layout.name.ends_with("lent_tp")) layout.one.problem.expert_tp = model::ExpertTp::kOne;
    Layout before = layout;
    before.name += "_scores_before";
    before.one.problem.score_position = model::ScorePosition::kBeforeExperts;
    all.push_back(std::move(before));
  }
  return all;
}

trace::Trace sound_trace(const cases::Case& one, Exchange exchange, Dim batch) {
  StoredWeights<double> weights(one.problem);
  return sound_trace(one, exchange, batch, weights);
}

trace::Trace sound_trace(const cases::Case& one, Exchange exchange, Dim batch, StoredWeights<double>& weights) {
  return SoundLayer(one.problem, exchange, batch, weights).run();
}

trace::Expected evaluate_batch(const cases::Case& one, const trace::Trace& batch) { return evaluate(one, {&batch, 1}); }

base::HostTensor local_shard(const model::Problem& problem, const std::string& tap, Dim rank, const base::HostTensor& global) {
  base::Shape shape = global.shape();
  const bool has_experts = shape.size() == 3;
  if (!has_experts) shape.insert(shape.begin(), 1);
  const auto held = [&](Dim dim) { return trace::declared_indices(problem, tap, rank, dim); };
  const std::vector<Dim> experts = has_experts ? held(0) : std::vector<Dim>{0};
  const std::vector<Dim> rows = held(has_experts ? 1 : 0), columns = held(has_experts ? 2 : 1);
  std::vector<double> values;
  for (const Dim e : experts)
    for (const Dim row : rows)
      for (const Dim column : columns) values.push_back(global.at((e * shape[1] + row) * shape[2] + column));
  const base::Shape local = *trace::declared_shape(problem, tap, rank, {});
  return base::tensor_from_doubles(global.dtype(), local, values);
}

trace::Trace perturbed(const trace::Trace& trace, std::size_t rank, const std::string& tap) {
  trace::Trace changed = trace;
  base::HostTensor& tensor = changed.ranks.at(rank).taps.at(tap).tensor;
  std::vector<double> values = tensor.to_doubles();
  values.at(0) += 1;
  tensor = base::tensor_from_doubles(tensor.dtype(), tensor.shape(), values);
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

double used_by(const trace::ExpectedTap& tap, const base::HostTensor& observed) {
  constexpr double kFewRoundings = 32;  // exp, divisions
  constexpr double kDoubleRoundoff = 0x1p-53;
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  if (tap.value.shape() != observed.shape()) return kInfinity;
  const Dim rows = observed.dim(0);
  double worst = 0;
  for (std::int64_t i = 0; i < observed.numel(); ++i) {
    const double error = std::fabs(tap.value.at(i) - observed.at(i));
    if (tap.is_comparable.at(static_cast<std::size_t>(i / (observed.numel() / rows))) == 0 || error == 0) continue;
    const double bound = 2 * (static_cast<double>(tap.terms) + kFewRoundings) * kDoubleRoundoff * tap.magnitude.at(i);
    worst = std::max(worst, error <= bound ? error / bound : kInfinity);
  }
  return worst;
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
