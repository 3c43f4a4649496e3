// Sigmoid scores and the clamped activation: by hand, and their gradients as central differences of the loss.
#include <cmath>

#include <gtest/gtest.h>

#include "reference/moe_layer.h"
#include "tests/unit/reference/backward_fixtures.h"
#include "tests/unit/reference/hand_fixtures.h"

namespace moecheck::reference {
namespace {

using model::Activation;
using model::ScoreFunction;

// sigmoid(ln 3) = 3/4, sigmoid(0) = 1/2, sigmoid(-ln 3) = 1/4
TEST(SigmoidScores, AreOfEachLogitAloneOrOverTheSumOfTheChosen) {
  const auto logits_TE = matrix(1, 3, {kLn3, 0, -kLn3});
  auto one = spec(3, 2, ScoreFunction::kSigmoid, false);
  EXPECT_EQ(choose_experts(logits_TE, one), ids(1, 2, {0, 1}));
  expect_near(scores_from_logits(logits_TE, ids(1, 2, {0, 2}), one), matrix(1, 2, {0.75, 0.25}));
  one.renormalise = true;
  expect_near(scores_from_logits(logits_TE, ids(1, 2, {0, 1}), one), matrix(1, 2, {0.6, 0.4}));
  one.routed_scale = 2.5;
  expect_near(scores_from_logits(logits_TE, ids(1, 2, {0, 1}), one), matrix(1, 2, {1.5, 1.0}));
}

TEST(SigmoidScores, AreChosenByTheirLogitsWhereTheyAreAllOne) {
  EXPECT_EQ(choose_experts(matrix(1, 3, {50, 60, 55}), spec(3, 2, ScoreFunction::kSigmoid, true)), ids(1, 2, {1, 2}));
}

TEST(RoutedScale, MultipliesScoresOfEveryScoreFunction) {
  const auto logits_TE = matrix(1, 3, {kLn3, 0, -kLn3});
  for (const auto score_function : {ScoreFunction::kSoftmaxBeforeTopk, ScoreFunction::kSoftmaxAfterTopk, ScoreFunction::kSigmoid}) {
    auto one = spec(3, 2, score_function, true);
    const Matrix<double> plain_TK = scores_from_logits(logits_TE, ids(1, 2, {0, 1}), one);
    one.routed_scale = 3;
    expect_near(scores_from_logits(logits_TE, ids(1, 2, {0, 1}), one), Matrix<double>(3 * plain_TK));
  }
}

// With alpha = 2 the gate ln 3 / 2 has the sigmoid of ln 3.
TEST(ClampedActivation, ClampsTheGateAboveAndTheUpOnBothSidesAndShiftsIt) {
  const Activation activation{2, 0.875, 1};
  EXPECT_DOUBLE_EQ(swish(kLn3 / 2, activation), kLn3 / 2 * 0.75);
  EXPECT_DOUBLE_EQ(swish(5.0, activation), 0.875 / (1 + std::exp(-1.75)));
  EXPECT_DOUBLE_EQ(swish(-5.0, activation), -5 / (1 + std::exp(10.0)));
  EXPECT_DOUBLE_EQ(shifted_up(0.5, activation), 1.5);
  EXPECT_DOUBLE_EQ(shifted_up(3.0, activation), 1.875);
  EXPECT_DOUBLE_EQ(shifted_up(-3.0, activation), 0.125);
  EXPECT_TRUE(std::isnan(swish(std::nan(""), activation)));
  EXPECT_TRUE(std::isnan(shifted_up(std::nan(""), activation)));
}

TEST(ClampedActivation, PassesNoGradientBeyondTheLimits) {
  const Activation activation{2, 0.875, 1};
  const auto d_gate_up_RG = swiglu_backward(matrix(1, 4, {5, kLn3 / 2, 0.5, -3}), matrix(1, 2, {1, 1}), activation);
  EXPECT_EQ(d_gate_up_RG(0, 0), 0);                                                           // gate 5
  EXPECT_DOUBLE_EQ(d_gate_up_RG(0, 1), 0.125 * 0.75 * (1 + kLn3 * 0.25));                     // gate ln 3 / 2, up -3
  EXPECT_DOUBLE_EQ(d_gate_up_RG(0, 2), 0.875 / (1 + std::exp(-1.75)));                        // up 0.5
  EXPECT_EQ(d_gate_up_RG(0, 3), 0);                                                           // up -3
}

struct Variant {
  const char* name;
  ScoreFunction score_function;
  bool renormalise;
  double routed_scale;
  Activation activation;
  model::ScorePosition position = model::ScorePosition::kAfterExperts;
};

class LayerVariant : public testing::TestWithParam<Variant> {
 protected:
  BackwardCase<double> layer_case() const {
    model::Problem problem = tiny_problem({"", GetParam().score_function, GetParam().renormalise, GetParam().position});
    problem.model.routed_scale = GetParam().routed_scale;
    problem.model.activation = GetParam().activation;
    return backward_case<double>(problem);
  }

  static double loss_of(BackwardCase<double>& one) {
    return MoeLayer<double>(one.spec, one.weights, one.position).forward(one.x_TD, one.ids_TK).y_TD.cwiseProduct(one.d_y_TD).sum();
  }

  // Small beside the distance of all gates and ups from the limit.
  static void expect_central_differences(BackwardCase<double>& one, Matrix<double>& variable, const Matrix<double>& gradient) {
    constexpr double kH = 0x1p-17, kRelative = 1e-6;
    const double scale = gradient.cwiseAbs().maxCoeff() + 1;
    for (Dim i = 0; i < variable.size(); ++i) {
      const double centre = variable.data()[i];
      variable.data()[i] = centre + kH;
      const double above = loss_of(one);
      variable.data()[i] = centre - kH;
      const double below = loss_of(one);
      variable.data()[i] = centre;
      EXPECT_NEAR(gradient.data()[i], (above - below) / (2 * kH), kRelative * scale) << "element " << i;
    }
  }
};

TEST_P(LayerVariant, EveryGradientIsTheCentralDifferenceOfTheLoss) {
  auto one = layer_case();
  const NamedMatrices<double> gradients = gradients_of(one);
  expect_central_differences(one, one.x_TD, gradients.at("x"));
  expect_central_differences(one, one.weights.w_router_ED, gradients.at("router"));
  for (Dim e = 0; e < one.spec.num_experts; ++e) {
    SCOPED_TRACE(e);
    auto& expert = one.weights.experts[static_cast<std::size_t>(e)];
    expect_central_differences(one, expert.w_gate_up_GD, gradients.at(expert_name("gate_up", e)));
    expect_central_differences(one, expert.w_down_DF, gradients.at(expert_name("down", e)));
  }
}

TEST_P(LayerVariant, MakesAnotherGradientThanThePlainLayer) {
  auto one = layer_case();
  const NamedMatrices<double> gradients = gradients_of(one);
  one.spec.score_function = ScoreFunction::kSoftmaxBeforeTopk;
  one.spec.routed_scale = 1;
  one.spec.activation = {};
  const NamedMatrices<double> plain = gradients_of(one);
  EXPECT_GT((gradients.at("x") - plain.at("x")).norm(), 0.1 * plain.at("x").norm());
}

INSTANTIATE_TEST_SUITE_P(
    Reference, LayerVariant,
    testing::Values(Variant{"sigmoid", ScoreFunction::kSigmoid, false, 1, {}},
                    Variant{"sigmoid_renormalised_scaled", ScoreFunction::kSigmoid, true, 2.5, {}},
                    Variant{"sigmoid_before_experts", ScoreFunction::kSigmoid, true, 2, {}, model::ScorePosition::kBeforeExperts},
                    Variant{"clamped", ScoreFunction::kSoftmaxAfterTopk, true, 1, {1.702, 0.75, 1}},
                    Variant{"clamped_before_experts", ScoreFunction::kSoftmaxBeforeTopk, true, 1, {1.702, 0.25, 1},
                            model::ScorePosition::kBeforeExperts},
                    Variant{"swish_scaled", ScoreFunction::kSoftmaxBeforeTopk, false, 3, {2, 100, 0}}),
    [](const auto& of) { return std::string(of.param.name); });

}  // namespace
}  // namespace moecheck::reference
