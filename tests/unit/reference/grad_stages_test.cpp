// The backward stages, chained: fed with each other's expected values they must end in the gradient of the whole layer.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "reference/backward.h"
#include "reference/evaluate.h"
#include "reference/grad_stages.h"
#include "tests/unit/reference/observed_fixture.h"

namespace moecheck::reference {
namespace {

using base::HostTensor;
using trace::Trace;

// In the order in which a backward makes them.
const std::vector<std::vector<std::string>> kChain = {
    {"grad/y_TD", "grad/out_RD", "grad/scores_TK"},
    {"grad/act_RF", "grad/logits_TE"},
    {"grad/gate_up_RG"},
    {"grad/experts/down_EDF", "grad/experts/gate_up_EGD", "grad/router/w_ED", "grad/x_TD"},
};

void set_tap(trace::RankTrace& rank, const std::string& name, HostTensor tensor) {
  const base::Shape shape = tensor.shape();
  rank.taps.insert_or_assign(name, trace::Tapped{std::move(tensor), model::replicate(), "", shape});
}

HostTensor zeros_like(const trace::RankTrace& rank, const std::string& tap) { return {base::DType::kF64, rank.tensor(tap)->shape()}; }

// A trace with the gradients that evaluate() itself expects, stage after stage.
Trace with_chained_gradients(const cases::Case& one, Trace observed) {
  for (trace::RankTrace& rank : observed.ranks) {
    for (const std::string name : {"out_RD", "act_RF", "gate_up_RG"}) set_tap(rank, "grad/" + name, zeros_like(rank, "experts/" + name));
    for (const std::string name : {"scores_TK", "logits_TE"}) set_tap(rank, "grad/" + name, zeros_like(rank, "router/" + name));
    set_tap(rank, "grad/router/w_ED", HostTensor(base::DType::kF64, {one.problem.model.num_experts, one.problem.model.d_model}));
  }
  for (const auto& stages : kChain) {
    const trace::Expected expected = evaluate(one, observed);
    for (std::size_t r = 0; r < observed.ranks.size(); ++r)
      for (const std::string& stage : stages) set_tap(observed.ranks[r], stage, expected.ranks[r].taps.at(stage).value);
  }
  return observed;
}

Matrix<double> slice(const HostTensor& tensor, Dim e) {
  Matrix<double> result(tensor.dim(1), tensor.dim(2));
  for (Dim i = 0; i < result.size(); ++i) result.data()[i] = tensor.at(e * result.size() + i);
  return result;
}

// Sums over data-parallel ranks, as the loss is one sum.
struct WholeGradient {
  std::map<Dim, Matrix<double>> d_x_TD;   // by data-parallel rank
  Matrix<double> d_router_ED;
  std::map<Dim, Matrix<double>> d_gate_up_GD, d_down_DF;   // by expert
};

WholeGradient whole_gradient(const cases::Case& one, const Trace& observed) {
  const model::Problem& problem = one.problem;
  const inputs::Generator generator(problem);
  GeneratedWeights<double> weights(generator);
  const MoeLayerBackward<double> layer(problem.model, weights);
  WholeGradient whole;
  whole.d_router_ED = Matrix<double>::Zero(problem.model.num_experts, problem.model.d_model);
  for (Dim rank = 0; rank < problem.mesh.world_size(); ++rank) {
    const Dim group = problem.mesh.coordinate(rank, "dp");
    if (whole.d_x_TD.contains(group)) continue;
    const IdMatrix ids_TK = ids_of(*observed.ranks[static_cast<std::size_t>(rank)].tensor("router/ids_TK"));
    const auto add = [&](std::map<Dim, Matrix<double>>& sums, Dim expert, const Matrix<double>& part) {
      if (!sums.emplace(expert, part).second) sums[expert] += part;
    };
    const auto gradient = layer.backward(generated_tokens<double>(generator, rank), ids_TK, generated_output_grad(generator, rank),
                                         [&](const ExpertGradient<double>& expert) {
                                           add(whole.d_gate_up_GD, expert.expert, expert.d_gate_up_GD);
                                           add(whole.d_down_DF, expert.expert, expert.d_down_DF);
                                         });
    whole.d_x_TD[group] = gradient.d_x_TD;
    whole.d_router_ED += gradient.d_router_ED;
  }
  return whole;
}

void expect_near(const Matrix<double>& got, const Matrix<double>& want, const std::string& what) {
  ASSERT_EQ(got.rows(), want.rows()) << what;
  ASSERT_EQ(got.cols(), want.cols()) << what;
  // Both are fp64 sums of some thousand terms of order one.
  EXPECT_LE((got - want).cwiseAbs().maxCoeff(), 1e-11 * (1 + want.cwiseAbs().maxCoeff())) << what;
}

class GradStages : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Evaluate, GradStages, testing::Values("none", "ep=2", "ep=4", "dp=2,ep=2", "ep=2,dp=2"),
                         [](const auto& mesh) { return "mesh" + std::to_string(mesh.index); });

TEST_P(GradStages, ChainedGiveTheGradientOfTheWholeLayerOnEveryRank) {
  const cases::Case one = small_case(GetParam(), model::Values::kNormal);
  const Trace observed = with_chained_gradients(one, sound_trace(one));
  const WholeGradient whole = whole_gradient(one, observed);
  const Dim local = one.problem.model.num_experts / one.problem.mesh.size("ep");
  for (const trace::RankTrace& rank : observed.ranks) {
    SCOPED_TRACE("rank " + std::to_string(rank.rank));
    expect_near(matrix_of<double>(*rank.tensor("grad/x_TD")), whole.d_x_TD.at(one.problem.mesh.coordinate(rank.rank, "dp")), "x");
    expect_near(matrix_of<double>(*rank.tensor("grad/router/w_ED")), whole.d_router_ED, "router");
    for (Dim e = 0; e < local; ++e) {
      const Dim expert = one.problem.mesh.coordinate(rank.rank, "ep") * local + e;
      expect_near(slice(*rank.tensor("grad/experts/gate_up_EGD"), e), whole.d_gate_up_GD.at(expert), "gate_up");
      expect_near(slice(*rank.tensor("grad/experts/down_EDF"), e), whole.d_down_DF.at(expert), "down");
    }
  }
}

TEST_P(GradStages, CarryMagnitudesThatAreNoSmallerThanTheirValues) {
  const cases::Case one = small_case(GetParam(), model::Values::kNormal);
  const trace::Expected expected = evaluate(one, with_chained_gradients(one, sound_trace(one)));
  for (const trace::ExpectedRank& rank : expected.ranks)
    for (const auto& stages : kChain)
      for (const std::string& stage : stages) {
        const trace::ExpectedTap& tap = rank.taps.at(stage);
        for (Dim i = 0; i < tap.value.numel(); ++i)
          ASSERT_LE(std::fabs(tap.value.at(i)), tap.magnitude.at(i) * (1 + 1e-12) + 1e-300) << stage << " element " << i;
      }
}

TEST(GradStages, BlameNoStageForTheErrorOfAnother) {
  const cases::Case one = small_case("ep=2", model::Values::kNormal);
  const Trace sound = with_chained_gradients(one, sound_trace(one));
  const Trace bent = perturbed(sound, 0, "grad/act_RF");
  EXPECT_THAT(changed_taps(evaluate(one, sound), evaluate(one, bent)), testing::UnorderedElementsAre("0 grad/gate_up_RG"));
}

}  // namespace
}  // namespace moecheck::reference
