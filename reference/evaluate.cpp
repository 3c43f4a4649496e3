#include "reference/evaluate.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "reference/expert_stages.h"
#include "reference/grad_expert_stages.h"
#include "reference/grad_stages.h"
#include "reference/hidden_step.h"
#include "reference/moe_layer.h"
#include "reference/observed_layer.h"
#include "reference/observed_weights.h"
#include "reference/stages.h"
#include "reference/step_stages.h"
#include "reference/whole_layer.h"

namespace moecheck::reference {
namespace {

using trace::Expected;
using trace::ExpectedRank;

// Which token shard a rank holds.
Dim token_shard(const model::Problem& problem, Dim rank) { return problem.mesh.coordinate(rank, problem.token_dims_text()); }

// The generated tokens of each token shard, made once.
class Tokens {
 public:
  Tokens(const inputs::Generator& generator, Dim batch) : generator_(generator), batch_(batch) {}

  const Matrix<float>& of(Dim rank) {
    const Dim shard = token_shard(generator_.problem(), rank);
    const auto found = made_.find(shard);
    if (found != made_.end()) return found->second;
    return made_.emplace(shard, generated_tokens<float>(generator_, rank, batch_)).first->second;
  }

 private:
  const inputs::Generator& generator_;
  Dim batch_;
  std::map<Dim, Matrix<float>> made_;
};

// The fp32 layer from generated inputs with the subject's routing: one sum for all ranks that have tokens and ids in common.
class EndToEnd {
 public:
  explicit EndToEnd(const model::Problem& problem) : problem_(problem) {}

  void add_rank(const ObservedRank& seen, const Matrix<float>& x_TD, const Matrix<float>& w_router_ED) {
    if (!seen.ids_TK) return;
    for (Dim t = 0; t < seen.num_tokens; ++t)
      if (!are_experts(*seen.ids_TK, t, problem_.model.num_experts)) return;
    const Dim shard = token_shard(problem_, seen.rank);
    for (Run& run : runs_) {
      if (run.shard != shard || run.ids_TK != *seen.ids_TK) continue;
      run.ranks.push_back(seen.rank);
      return;
    }
    Matrix<float> scores_TK = scores_from_logits(router_logits(x_TD, w_router_ED), *seen.ids_TK, problem_.model);
    ExpertSum<float> sum(x_TD, *seen.ids_TK, std::move(scores_TK), problem_.model, problem_.score_position);
    runs_.push_back({shard, *seen.ids_TK, {seen.rank}, std::move(sum)});
  }

  bool needs(Dim expert) const {
    for (const Run& run : runs_)
      if (run.sum.needs(expert)) return true;
    return false;
  }

  void add_expert(Dim expert, const ExpertWeights<float>& weights) {
    for (Run& run : runs_)
      if (run.sum.needs(expert)) run.sum.add(expert, weights);
  }

  void write_outputs(Expected& expected) const {
    for (const Run& run : runs_) {
      const base::HostTensor y_TD = tensor_of(run.sum.y_TD());
      for (const Dim rank : run.ranks) expected.ranks[static_cast<std::size_t>(rank)].end_to_end_TD = y_TD;
    }
  }

 private:
  struct Run {
    Dim shard;
    IdMatrix ids_TK;
    std::vector<Dim> ranks;
    ExpertSum<float> sum;
  };

  const model::Problem& problem_;
  std::vector<Run> runs_;
};

void keep(ExpectedRank& rank, std::string_view name, std::optional<ExpectedTap> tap) {
  if (tap) rank.taps.emplace(name, *std::move(tap));
}

void keep_all(Expected& expected, std::string_view name, std::map<Dim, ExpectedTap> taps) {
  for (auto& [rank, tap] : taps) expected.ranks[static_cast<std::size_t>(rank)].taps.emplace(name, std::move(tap));
}

// The backward stages of all ranks but those that need expert weights.
void evaluate_gradients(const inputs::Generator& generator, Dim batch, const ObservedLayer& layer, Expected& expected) {
  const auto shows_gradients = [](const ObservedRank& seen) { return seen.grad_logits_TE || seen.grad_scores_TK || seen.grad_out_RD; };
  if (std::ranges::none_of(layer.ranks(), shows_gradients)) return;
  const Matrix<double> grad_y_SD = generated_output_grad(generator, batch);
  for (const ObservedRank& seen : layer.ranks()) {
    if (!shows_gradients(seen)) continue;
    ExpectedRank& rank = expected.ranks[static_cast<std::size_t>(seen.rank)];
    keep(rank, "grad/y_TD", expect_grad_y(seen, grad_y_SD));
    keep(rank, "grad/out_RD", expect_grad_out(layer, seen, grad_y_SD));
    keep(rank, "grad/gate_up_RG", expect_grad_gate_up(seen, layer.problem().model.activation));
    keep(rank, "grad/scores_TK", expect_grad_scores(layer, seen, grad_y_SD));
    keep(rank, "grad/logits_TE", expect_grad_logits(seen, layer.problem().model));
    keep(rank, "grad/router/w_ED", expect_grad_router(layer, seen));
  }
}

// The stages that multiply with expert weights, expert by expert.
class ExpertLoop {
 public:
  ExpertLoop(const cases::Case& one, const ObservedLayer& layer)
      : gate_up_(ExpertStage::Weight::kGateUp, layer), down_(ExpertStage::Weight::kDown, layer),
        gradients_(layer, one.experts_backend == "batched_mm") {
    for (const ObservedRank& seen : layer.ranks()) {
      gate_up_.add_rank(seen);
      down_.add_rank(seen);
    }
  }

  void run(Weights<float>& weights, Dim num_experts, EndToEnd& end_to_end) {
    for (Dim e = 0; e < num_experts; ++e) {
      if (!gate_up_.has_rows(e) && !down_.has_rows(e) && !end_to_end.needs(e) && !gradients_.has_rows(e)) continue;
      if (weights.has_expert(e)) {
        run_expert(e, weights.expert(e), end_to_end);
      } else {
        gate_up_.skip(e);
        down_.skip(e);
        gradients_.skip(e);
      }
    }
  }

  void write(Expected& expected, const Matrix<float>* w_router_ED) {
    keep_all(expected, "experts/gate_up_RG", gate_up_.take_taps());
    keep_all(expected, "experts/out_RD", down_.take_taps());
    gradients_.write(expected, w_router_ED);
  }

 private:
  void run_expert(Dim e, const ExpertWeights<float>& expert, EndToEnd& end_to_end) {
    gate_up_.run(e, expert);
    down_.run(e, expert);
    end_to_end.add_expert(e, expert);
    if (gradients_.has_rows(e)) gradients_.run(e, expert);
  }

  ExpertStage gate_up_;
  ExpertStage down_;
  GradExpertStages gradients_;
};

// The layer as a whole, where stages cannot be judged one by one. Goes over the experts once more.
void evaluate_whole(const cases::Case& one, const inputs::Generator& generator, const ObservedLayer& layer, Dim batch, Weights<float>& weights,
                    Expected& expected) {
  if (!WholeLayer::is_needed(layer, expected)) return;
  const std::optional<Matrix<float>> w_router_ED = weights.has_router() ? std::optional(weights.router_ED()) : std::nullopt;
  WholeLayer whole(one, layer, w_router_ED ? &*w_router_ED : nullptr, generated_output_grad(generator, batch), expected);
  for (Dim e = 0; e < one.problem.model.num_experts; ++e) {
    if (!whole.has_rows(e)) continue;
    if (weights.has_expert(e)) whole.add(e, weights.expert(e));
    else whole.skip(e);
  }
  whole.write();
}

std::unique_ptr<Weights<float>> weights_of(const cases::Case& one, const inputs::Generator& generator, Dim batch, const trace::Trace& observed) {
  if (one.step_of(batch) == 0) return std::make_unique<GeneratedWeights<float>>(generator);
  return std::make_unique<ObservedWeights>(one.problem, observed);
}

}  // namespace

Expected evaluate(const cases::Case& one, std::span<const trace::Trace> batches) {
  Expected expected;
  if (batches.empty()) return expected;
  const model::Problem& problem = one.problem;
  const Dim batch = static_cast<Dim>(batches.size()) - 1;
  const inputs::Generator generator(problem);
  const auto weights = weights_of(one, generator, batch, batches.back());
  const std::optional<Matrix<float>> w_router_ED = weights->has_router() ? std::optional(weights->router_ED()) : std::nullopt;
  const ObservedLayer layer(problem, batches.back());
  Tokens tokens(generator, batch);
  expected.ranks.resize(layer.ranks().size());
  EndToEnd end_to_end(problem);
  for (const ObservedRank& seen : layer.ranks()) {
    ExpectedRank& rank = expected.ranks[static_cast<std::size_t>(seen.rank)];
    const Matrix<float>& x_TD = tokens.of(seen.rank);
    if (seen.x_TD) keep(rank, "input/x_TD", expect_x(x_TD));
    if (w_router_ED) keep(rank, "router/logits_TE", expect_logits(seen, *w_router_ED));
    keep(rank, "router/scores_TK", expect_scores(seen, problem.model));
    keep(rank, "experts/in_RD", expect_in(layer, seen));
    keep(rank, "experts/act_RF", expect_act(seen, problem.model.activation));
    keep(rank, "combine/partial_TD", expect_partial(layer, seen));
    keep(rank, "output/y_TD", expect_y(layer, seen));
    if (w_router_ED && one.step_of(batch) == 0) end_to_end.add_rank(seen, x_TD, *w_router_ED);
  }
  ExpertLoop experts(one, layer);
  experts.run(*weights, problem.model.num_experts, end_to_end);
  end_to_end.write_outputs(expected);
  evaluate_gradients(generator, batch, layer, expected);
  experts.write(expected, w_router_ED ? &*w_router_ED : nullptr);
  evaluate_whole(one, generator, layer, batch, *weights, expected);
  expect_step(one, batches, expected);
  expect_hidden_step(one, batches, expected);
  return expected;
}

}  // namespace moecheck::reference
