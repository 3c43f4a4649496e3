#include "reference/moe_layer.h"

#include <gtest/gtest.h>

#include "tests/unit/reference/layer_fixtures.h"

namespace moecheck::reference {
namespace {

constexpr double kFloatRoundoff = 0x1p-24;
constexpr double kDoubleRoundoff = 0x1p-53;
// Both sides err.
constexpr double kBothErr = 2;

class EveryRouterVariant : public testing::TestWithParam<std::size_t> {
 protected:
  model::Problem problem() const { return small_problem(layer_variants()[GetParam()]); }
};

INSTANTIATE_TEST_SUITE_P(MoeLayer, EveryRouterVariant, testing::Range<std::size_t>(0, 6),
                         [](const auto& variant) { return layer_variants()[variant.param].name; });

TEST_P(EveryRouterVariant, AgreesInDoubleWithANaiveLayer) {
  const auto layer = generated_forward<double>(problem());
  const auto naive = naive_forward(problem(), kDoubleRoundoff);
  for (std::size_t t = 0; t < naive.ids.size(); ++t)
    for (std::size_t k = 0; k < naive.ids[t].size(); ++k)
      EXPECT_EQ(layer.ids_TK(static_cast<Dim>(t), static_cast<Dim>(k)), naive.ids[t][k]) << "token " << t << " slot " << k;
  EXPECT_LE(used_bound(layer.scores_TK, naive.scores, kBothErr), 1.0);
  EXPECT_LE(used_bound(layer.y_TD, naive.y, kBothErr), 1.0);
  EXPECT_GT(layer.y_TD.cwiseAbs().maxCoeff(), 0.1);  // not a comparison of zeros
}

TEST_P(EveryRouterVariant, AgreesInFloatWithinTheDerivedBound) {
  const auto layer = generated_forward<float>(problem());
  const auto naive = naive_forward(problem(), kFloatRoundoff);
  EXPECT_LE(used_bound(layer.scores_TK, naive.scores, 1), 1.0);
  EXPECT_LE(used_bound(layer.y_TD, naive.y, 1), 1.0);
  EXPECT_GT(used_bound(layer.y_TD, naive.y, 1), 0.0);  // float does err: the comparison sees something
}

TEST_P(EveryRouterVariant, FollowsSomeoneElsesRouting) {
  const model::Problem one = problem();
  const inputs::Generator generator(one);
  GeneratedWeights<double> weights(generator);
  const MoeLayer<double> layer(one.model, weights, one.score_position);
  const auto x_TD = generated_tokens<double>(generator, 0);
  const auto own = layer.forward(x_TD);
  IdMatrix other_TK = own.ids_TK;
  other_TK(4, 0) = (own.ids_TK.row(4).maxCoeff() + 1) % one.model.num_experts;
  const auto replayed = layer.forward(x_TD, other_TK);
  EXPECT_EQ(replayed.ids_TK, other_TK);
  for (Dim t = 0; t < x_TD.rows(); ++t) EXPECT_EQ(replayed.scores_TK.row(t) == own.scores_TK.row(t), t != 4) << t;
  EXPECT_TRUE(layer.forward(x_TD, own.ids_TK).y_TD == own.y_TD);
}

TEST(MoeLayer, SeesAnErrorOfOnePartInAThousandInOneWeight) {
  const model::Problem problem = small_problem();
  StoredWeights<float> weights(problem);
  const auto x_TD = tokens_of<float>(problem);
  const auto naive = naive_forward(problem, kFloatRoundoff);
  const auto expert = static_cast<std::size_t>(naive.ids[0][0]);
  weights.experts[expert].w_down_DF.row(2) *= 1.001F;
  EXPECT_GT(used_bound(MoeLayer<float>(problem.model, weights).forward(x_TD).y_TD, naive.y, 1), 1.0);
}

TEST(MoeLayer, TakesARankWithoutTokens) {
  model::Problem problem = small_problem();
  problem.tokens_per_rank = {0};
  const auto layer = generated_forward<float>(problem);
  EXPECT_EQ(layer.y_TD.rows(), 0);
  EXPECT_EQ(layer.y_TD.cols(), problem.model.d_model);
}

TEST(MoeLayer, AsksOnceForEachExpertWithTokensAndNeverForTheOthers) {
  model::Problem problem = small_problem();
  problem.tokens_per_rank = {2};
  const inputs::Generator generator(problem);
  CountingWeights<float> weights(generator);
  const auto layer = MoeLayer<float>(problem.model, weights).forward(generated_tokens<float>(generator, 0));
  std::vector<Dim> chosen(layer.ids_TK.data(), layer.ids_TK.data() + layer.ids_TK.size());
  std::ranges::sort(chosen);
  chosen.erase(std::unique(chosen.begin(), chosen.end()), chosen.end());
  EXPECT_EQ(weights.asked, chosen);
  EXPECT_LT(chosen.size(), static_cast<std::size_t>(problem.model.num_experts));
}

TEST(GeneratedWeights, AreTheSameInFloatAndDouble) {
  for (const auto dtype : {base::DType::kF32, base::DType::kBF16}) {
    model::Problem problem = small_problem();
    problem.dtype = dtype;
    const inputs::Generator generator(problem);
    GeneratedWeights<float> narrow(generator);
    GeneratedWeights<double> wide(generator);
    EXPECT_TRUE(narrow.router_ED().cast<double>() == wide.router_ED());
    EXPECT_TRUE(narrow.expert(3).w_gate_up_GD.cast<double>() == wide.expert(3).w_gate_up_GD);
    EXPECT_TRUE(narrow.expert(3).w_down_DF.cast<double>() == wide.expert(3).w_down_DF);
    EXPECT_TRUE(wide.expert(3).w_gate_up_GD.topRows(problem.model.d_ff) == matrix_of<double>(generator.gate_FD(3)));
    EXPECT_TRUE(wide.expert(3).w_gate_up_GD.bottomRows(problem.model.d_ff) == matrix_of<double>(generator.up_FD(3)));
    EXPECT_TRUE(wide.expert(3).w_down_DF == matrix_of<double>(generator.down_DF(3)));
  }
}

}  // namespace
}  // namespace moecheck::reference
