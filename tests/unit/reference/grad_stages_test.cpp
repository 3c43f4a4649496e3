// The backward stages, chained: fed with each other's expected values they must end in the gradient of the whole layer.
#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "harness/trace/layout.h"
#include "reference/backward.h"
#include "reference/grad_stages.h"
#include "tests/unit/reference/observed_fixture.h"

namespace moecheck::reference {
namespace {

using base::HostTensor;
using trace::Trace;

// In the order in which a backward makes them.
const std::vector<std::vector<std::string>> kChain = {
    {"grad/y_TD", "grad/out_RD"},
    {"grad/act_RF"},
    {"grad/gate_up_RG"},
    {"grad/in_RD"},
    {"grad/scores_TK"},
    {"grad/logits_TE"},
    {"grad/experts/down_EDF", "grad/experts/gate_up_EGD", "grad/router/w_ED", "grad/x_TD"},
};

void set_tap(trace::RankTrace& rank, const std::string& name, HostTensor tensor) { rank.taps.insert_or_assign(name, whole(std::move(tensor))); }

HostTensor zeros_like(const trace::RankTrace& rank, const std::string& tap) { return {base::DType::kF64, rank.tensor(tap)->shape()}; }

// A trace with the gradients that evaluate() itself expects, stage after stage.
Trace with_chained_gradients(const cases::Case& one, Trace observed) {
  for (trace::RankTrace& rank : observed.ranks) {
    for (const std::string name : {"out_RD", "act_RF", "gate_up_RG", "in_RD"}) set_tap(rank, "grad/" + name, zeros_like(rank, "experts/" + name));
    for (const std::string name : {"scores_TK", "logits_TE"}) set_tap(rank, "grad/" + name, zeros_like(rank, "router/" + name));
    set_tap(rank, "grad/router/w_ED", HostTensor(base::DType::kF64, {one.problem.model.num_experts, one.problem.model.d_model}));
  }
  for (const auto& stages : kChain) {
    const trace::Expected expected = evaluate_batch(one, observed);
    for (std::size_t r = 0; r < observed.ranks.size(); ++r)
      for (const std::string& stage : stages) set_tap(observed.ranks[r], stage, expected.ranks[r].taps.at(stage).value);
  }
  return observed;
}

// Sums over all tokens, as the loss is one sum.
struct WholeGradient {
  std::map<Dim, Matrix<double>> d_x_TD, d_scores_TK;   // by first token of the shard
  HostTensor d_router_ED, d_gate_up_EGD, d_down_EDF;
};

void add_at(HostTensor& sum, Dim first, const Matrix<double>& part) {
  for (Dim i = 0; i < part.size(); ++i) sum.set(first + i, sum.at(first + i) + part.data()[i]);
}

WholeGradient whole_gradient(const cases::Case& one, const Trace& observed) {
  const model::Problem& problem = one.problem;
  const model::ModelSpec& spec = problem.model;
  const inputs::Generator generator(problem);
  GeneratedWeights<double> weights(generator);
  const MoeLayerBackward<double> layer(spec, weights, problem.score_position);
  const Matrix<double> grad_y_SD = generated_output_grad(generator, 0);
  WholeGradient whole;
  whole.d_router_ED = HostTensor(base::DType::kF64, {spec.num_experts, spec.d_model});
  whole.d_gate_up_EGD = HostTensor(base::DType::kF64, {spec.num_experts, spec.gate_up_rows(), spec.d_model});
  whole.d_down_EDF = HostTensor(base::DType::kF64, {spec.num_experts, spec.d_model, spec.d_ff});
  for (const Dim rank : problem.mesh.group(0, problem.token_dims_text())) {
    if (problem.num_tokens(rank) == 0) continue;
    const Dim first = problem.first_token(rank);
    const IdMatrix ids_TK = ids_of(*observed.ranks[static_cast<std::size_t>(rank)].tensor("router/ids_TK"));
    const auto gradient = layer.backward(generated_tokens<double>(generator, rank), ids_TK, grad_y_SD.middleRows(first, problem.num_tokens(rank)),
                                         [&](const ExpertGradient<double>& expert) {
                                           add_at(whole.d_gate_up_EGD, expert.expert * expert.d_gate_up_GD.size(), expert.d_gate_up_GD);
                                           add_at(whole.d_down_EDF, expert.expert * expert.d_down_DF.size(), expert.d_down_DF);
                                         });
    whole.d_x_TD[first] = gradient.d_x_TD;
    whole.d_scores_TK[first] = gradient.d_scores_TK;
    add_at(whole.d_router_ED, 0, gradient.d_router_ED);
  }
  return whole;
}

void expect_near(const HostTensor& got, const HostTensor& want, const std::string& what) {
  ASSERT_EQ(got.shape(), want.shape()) << what;
  double largest = 0, error = 0;
  for (Dim i = 0; i < want.numel(); ++i) {
    largest = std::max(largest, std::fabs(want.at(i)));
    error = std::max(error, std::fabs(got.at(i) - want.at(i)));
  }
  // Both are fp64 sums of some thousand terms of order one.
  EXPECT_LE(error, 1e-11 * (1 + largest)) << what;
  if (want.numel() > 0) {
    EXPECT_GT(largest, 0) << what << ": a comparison of zeros";
  }
}

class GradStages : public testing::TestWithParam<Layout> {};
INSTANTIATE_TEST_SUITE_P(Evaluate, GradStages, testing::ValuesIn(layouts()), [](const auto& layout) { return layout.param.name; });

TEST_P(GradStages, ChainedGiveTheGradientOfTheWholeLayerOnEveryRank) {
  const cases::Case& one = GetParam().one;
  const Trace observed = with_chained_gradients(one, sound_trace(one, GetParam().exchange));
  const WholeGradient whole = whole_gradient(one, observed);
  for (const trace::RankTrace& rank : observed.ranks) {
    SCOPED_TRACE("rank " + std::to_string(rank.rank));
    const auto shard = [&](const std::string& tap, const HostTensor& global) { return local_shard(one.problem, tap, rank.rank, global); };
    const Dim first = one.problem.first_token(rank.rank);
    if (one.problem.num_tokens(rank.rank) > 0) {
      expect_near(*rank.tensor("grad/x_TD"), tensor_of(whole.d_x_TD.at(first)), "x");
      expect_near(*rank.tensor("grad/scores_TK"), tensor_of(whole.d_scores_TK.at(first)), "scores");
    }
    expect_near(*rank.tensor("grad/router/w_ED"), shard("grad/router/w_ED", whole.d_router_ED), "router");
    expect_near(*rank.tensor("grad/experts/gate_up_EGD"), shard("grad/experts/gate_up_EGD", whole.d_gate_up_EGD), "gate_up");
    expect_near(*rank.tensor("grad/experts/down_EDF"), shard("grad/experts/down_EDF", whole.d_down_EDF), "down");
  }
}

TEST_P(GradStages, SeeADamageToAnyOfThemThere) {
  const cases::Case& one = GetParam().one;
  const Trace sound = with_chained_gradients(one, sound_trace(one, GetParam().exchange));
  for (std::size_t r = 0; r < sound.ranks.size(); ++r)
    for (const auto& stages : kChain)
      for (const std::string& stage : stages) {
        if (sound.ranks[r].tensor(stage)->numel() == 0) continue;
        const Trace damaged = perturbed(sound, r, stage);
        const auto taps = evaluate_batch(one, damaged).ranks[r].taps;
        EXPECT_GT(used_by(taps.at(stage), *damaged.ranks[r].tensor(stage)), 1) << stage << " of rank " << r;
        EXPECT_LE(used_by(taps.at(stage), *sound.ranks[r].tensor(stage)), 1) << stage << " of rank " << r;
      }
}

TEST_P(GradStages, CarryMagnitudesThatAreNoSmallerThanTheirValues) {
  const cases::Case& one = GetParam().one;
  const trace::Expected expected = evaluate_batch(one, with_chained_gradients(one, sound_trace(one, GetParam().exchange)));
  for (const trace::ExpectedRank& rank : expected.ranks)
    for (const auto& stages : kChain)
      for (const std::string& stage : stages) {
        const trace::ExpectedTap& tap = rank.taps.at(stage);
        for (Dim i = 0; i < tap.value.numel(); ++i)
          ASSERT_LE(std::fabs(tap.value.at(i)), tap.magnitude.at(i) * (1 + 1e-12) + 1e-300) << stage << " element " << i;
      }
}

// Without grad/in_RD the tokens' gradient comes from the stage before it and the weights.
TEST_P(GradStages, OfTheTokensNeedNoRecordedGradientOfTheRows) {
  const cases::Case& one = GetParam().one;
  Trace observed = with_chained_gradients(one, sound_trace(one, GetParam().exchange));
  for (trace::RankTrace& rank : observed.ranks) rank.taps.erase("grad/in_RD");
  const trace::Expected expected = evaluate_batch(one, observed);
  for (std::size_t r = 0; r < observed.ranks.size(); ++r)
    EXPECT_LE(used_by(expected.ranks[r].taps.at("grad/x_TD"), *observed.ranks[r].tensor("grad/x_TD")), 1) << r;
}

TEST(GradStages, BlameNoStageForTheErrorOfAnother) {
  const cases::Case one = small_case("ep=2", model::Values::kNormal);
  const Trace sound = with_chained_gradients(one, sound_trace(one));
  const Trace bent = perturbed(sound, 0, "grad/act_RF");
  EXPECT_THAT(changed_taps(evaluate_batch(one, sound), evaluate_batch(one, bent)), testing::UnorderedElementsAre("0 grad/gate_up_RG"));
}

TEST(GradStages, OfParametersAreUnknownWhereAReplicaShowsNothing) {
  const cases::Case one = small_case("dp=2,ep=2", model::Values::kNormal);
  Trace observed = with_chained_gradients(one, sound_trace(one));
  observed.ranks[2].taps.erase("grad/act_RF");
  const auto expected = evaluate_batch(one, observed);
  EXPECT_FALSE(expected.ranks[0].taps.contains("grad/experts/down_EDF"));
  EXPECT_TRUE(expected.ranks[1].taps.contains("grad/experts/down_EDF"));
}

}  // namespace
}  // namespace moecheck::reference
