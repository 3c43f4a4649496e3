#include "reference/evaluate.h"

#include <utility>

#include "reference/expert_stages.h"
#include "reference/grad_expert_stages.h"
#include "reference/grad_stages.h"
#include "reference/moe_layer.h"
#include "reference/observed_rank.h"
#include "reference/stages.h"

namespace moecheck::reference {
namespace {

using trace::Expected;
using trace::ExpectedRank;

// The generated tokens of each data-parallel rank, made once.
class Tokens {
 public:
  explicit Tokens(const inputs::Generator& generator) : generator_(generator) {}

  const Matrix<float>& of(Dim rank) {
    const Dim data_parallel_rank = generator_.problem().mesh.coordinate(rank, "dp");
    const auto found = made_.find(data_parallel_rank);
    if (found != made_.end()) return found->second;
    return made_.emplace(data_parallel_rank, generated_tokens<float>(generator_, rank)).first->second;
  }

 private:
  const inputs::Generator& generator_;
  std::map<Dim, Matrix<float>> made_;
};

// The fp32 layer from generated inputs with the subject's routing: one sum for all ranks that have tokens and ids in common.
class EndToEnd {
 public:
  EndToEnd(const model::Problem& problem, const Matrix<float>& w_router_ED) : problem_(problem), w_router_ED_(w_router_ED) {}

  void add_rank(const ObservedRank& seen, const Matrix<float>& x_TD) {
    if (!seen.ids_TK) return;
    for (Dim t = 0; t < seen.num_tokens; ++t)
      if (!are_experts(*seen.ids_TK, t, problem_.model.num_experts)) return;
    const Dim data_parallel_rank = problem_.mesh.coordinate(seen.rank, "dp");
    for (Run& run : runs_) {
      if (run.data_parallel_rank != data_parallel_rank || run.ids_TK != *seen.ids_TK) continue;
      run.ranks.push_back(seen.rank);
      return;
    }
    Matrix<float> scores_TK = scores_from_logits(router_logits(x_TD, w_router_ED_), *seen.ids_TK, problem_.model);
    ExpertSum<float> sum(x_TD, *seen.ids_TK, std::move(scores_TK), problem_.model.num_experts);
    runs_.push_back({data_parallel_rank, *seen.ids_TK, {seen.rank}, std::move(sum)});
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
    Dim data_parallel_rank;
    IdMatrix ids_TK;
    std::vector<Dim> ranks;
    ExpertSum<float> sum;
  };

  const model::Problem& problem_;
  const Matrix<float>& w_router_ED_;
  std::vector<Run> runs_;
};

void keep(ExpectedRank& rank, std::string_view name, std::optional<ExpectedTap> tap) {
  if (tap) rank.taps.emplace(name, *std::move(tap));
}

void keep_all(Expected& expected, std::string_view name, std::map<Dim, ExpectedTap> taps) {
  for (auto& [rank, tap] : taps) expected.ranks[static_cast<std::size_t>(rank)].taps.emplace(name, std::move(tap));
}

// The backward stages of all ranks but those that need expert weights.
void evaluate_gradients(const inputs::Generator& generator, const std::vector<ObservedRank>& all, Expected& expected) {
  const model::Problem& problem = generator.problem();
  for (std::size_t r = 0; r < all.size(); ++r) {
    const ObservedRank& seen = all[r];
    if (!seen.grad_logits_TE && !seen.grad_scores_TK && !seen.grad_out_RD) continue;
    const Matrix<double> grad_y_TD = generated_output_grad(generator, seen.rank);
    keep(expected.ranks[r], "grad/y_TD", expect_grad_y(grad_y_TD));
    keep(expected.ranks[r], "grad/out_RD", expect_grad_out(seen, grad_y_TD));
    keep(expected.ranks[r], "grad/gate_up_RG", expect_grad_gate_up(seen));
    keep(expected.ranks[r], "grad/scores_TK", expect_grad_scores(seen, all, problem.mesh, grad_y_TD));
    keep(expected.ranks[r], "grad/logits_TE", expect_grad_logits(seen, problem.model));
    keep(expected.ranks[r], "grad/router/w_ED", expect_grad_router(seen, all, problem));
  }
}

}  // namespace

Expected evaluate(const cases::Case& one, const trace::Trace& observed) {
  const model::Problem& problem = one.problem;
  const inputs::Generator generator(problem);
  GeneratedWeights<float> weights(generator);
  const Matrix<float> w_router_ED = weights.router_ED();
  Tokens tokens(generator);
  std::vector<ObservedRank> all;
  for (std::size_t r = 0; r < observed.ranks.size(); ++r)
    all.push_back(decode_rank(problem, static_cast<Dim>(r), observed.ranks[r]));

  Expected expected;
  expected.ranks.resize(all.size());
  ExpertStage gate_up_stage(ExpertStage::Weight::kGateUp, problem.model);
  ExpertStage down_stage(ExpertStage::Weight::kDown, problem.model);
  EndToEnd end_to_end(problem, w_router_ED);
  GradExpertStages grad_stages(problem, one.experts_backend == "batched_mm", all);
  for (std::size_t r = 0; r < all.size(); ++r) {
    const ObservedRank& seen = all[r];
    const Matrix<float>& x_TD = tokens.of(seen.rank);
    if (seen.x_TD) keep(expected.ranks[r], "input/x_TD", expect_x(x_TD));
    keep(expected.ranks[r], "router/logits_TE", expect_logits(seen, w_router_ED));
    keep(expected.ranks[r], "router/scores_TK", expect_scores(seen, problem.model));
    keep(expected.ranks[r], "experts/act_RF", expect_act(seen));
    keep(expected.ranks[r], "combine/partial_TD", expect_partial(seen, problem.model));
    keep(expected.ranks[r], "output/y_TD", expect_y(seen, all, problem));
    gate_up_stage.add_rank(seen, problem.mesh);
    down_stage.add_rank(seen, problem.mesh);
    end_to_end.add_rank(seen, x_TD);
  }
  for (Dim e = 0; e < problem.model.num_experts; ++e) {
    if (!gate_up_stage.has_rows(e) && !down_stage.has_rows(e) && !end_to_end.needs(e) && !grad_stages.has_rows(e)) continue;
    const ExpertWeights<float>& expert = weights.expert(e);
    gate_up_stage.run(e, expert);
    down_stage.run(e, expert);
    end_to_end.add_expert(e, expert);
    if (grad_stages.has_rows(e)) grad_stages.run(e, expert);
  }
  keep_all(expected, "experts/gate_up_RG", gate_up_stage.take_taps());
  keep_all(expected, "experts/out_RD", down_stage.take_taps());
  end_to_end.write_outputs(expected);
  evaluate_gradients(generator, all, expected);
  grad_stages.write(expected, w_router_ED);
  return expected;
}

}  // namespace moecheck::reference
