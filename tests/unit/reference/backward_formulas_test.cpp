// Gradients small enough to be worked out by hand; the numbers are written out.
#include <cmath>

#include <gtest/gtest.h>

#include "reference/backward.h"
#include "tests/unit/reference/hand_fixtures.h"

namespace moecheck::reference {
namespace {

using model::ScoreFunction;

TEST(Backward, OfAProductTakesTheOtherFactor) {
  const auto gradient = linear_backward(matrix(2, 2, {2, 3, 1, 0}), matrix(1, 2, {5, 7}), matrix(2, 1, {10, -1}));
  EXPECT_EQ(gradient.d_in, matrix(2, 2, {50, 70, -5, -7}));
  EXPECT_EQ(gradient.d_w, matrix(1, 2, {19, 30}));
}

TEST(Backward, SiluSlopeAtZeroAtLogarithmsAndFarOut) {
  EXPECT_EQ(swish_slope(0.0), 0.5);
  EXPECT_DOUBLE_EQ(swish_slope(kLn3), 0.75 * (1 + kLn3 / 4));
  EXPECT_DOUBLE_EQ(swish_slope(-kLn3), 0.25 * (1 - kLn3 * 0.75));
  EXPECT_EQ(swish_slope(64.0), 1.0);
  EXPECT_EQ(swish_slope(64.0F), 1.0F);
  EXPECT_EQ(swish_slope(-1000.0), 0.0);
}

TEST(Backward, OfSwigluPairsGateWithTheUpOfTheSameColumn) {
  const auto d_gate_up_RG = swiglu_backward(matrix(1, 4, {kLn3, 0, 8, 6}), matrix(1, 2, {2, 10}));
  expect_near(d_gate_up_RG, matrix(1, 4, {2 * 8 * 0.75 * (1 + kLn3 / 4), 10 * 6 * 0.5, 2 * 0.75 * kLn3, 0}));
}

TEST(Backward, OfTheCombineWeighsTheGradientAndTakesTheOutputsShareOfIt) {
  const std::vector<RoutedRow> rows = {{1, 0, 4}, {0, 1, 4}};
  const auto scores_TK = matrix(2, 2, {9, 0.5, 0.25, 9});
  const auto gradient = combine_backward(rows, scores_TK, matrix(2, 2, {1, 2, 3, 4}), matrix(2, 2, {8, 16, 4, -4}));
  EXPECT_EQ(gradient.d_out_RD, matrix(2, 2, {1, -1, 4, 8}));
  EXPECT_EQ(gradient.d_scores_R1, matrix(2, 1, {-4, 88}));
}

// Shares 1/6, 2/6, 3/6, experts 2 and 1 chosen, d_s = (5, -5).
class ScoresBackward : public testing::Test {
 protected:
  static Matrix<double> of(ScoreFunction order, bool renormalise) {
    return scores_backward(matrix(1, 3, {0, kLn2, kLn3}), ids(1, 2, {2, 1}), matrix(1, 2, {5, -5}),
                           spec(3, 2, order, renormalise));
  }
};

TEST_F(ScoresBackward, OfSharesOfAllExpertsReachesTheOthersToo) {
  // mean = 3/6 * 5 - 2/6 * 5 = 5/6;  (0 - 5/6) / 6, (-5 - 5/6) / 3, (5 - 5/6) / 2
  expect_near(of(ScoreFunction::kSoftmaxBeforeTopk, false), matrix(1, 3, {-5.0 / 36, -35.0 / 18, 25.0 / 12}));
}

TEST_F(ScoresBackward, OfRenormalisedSharesStaysWithTheChosen) {
  // s = (3/5, 2/5), mean = 1;  3/5 * (5 - 1), 2/5 * (-5 - 1)
  expect_near(of(ScoreFunction::kSoftmaxBeforeTopk, true), matrix(1, 3, {0, -2.4, 2.4}));
}

TEST_F(ScoresBackward, AfterTopKIsZeroForTheOthersWhateverRenormaliseSays) {
  for (const bool renormalise : {false, true}) {
    const auto d_logits_TE = of(ScoreFunction::kSoftmaxAfterTopk, renormalise);
    expect_near(d_logits_TE, matrix(1, 3, {0, -2.4, 2.4}));
    EXPECT_EQ(d_logits_TE(0, 0), 0);
  }
}

TEST_F(ScoresBackward, OfAnExpertInTwoSlotsIsTheSumOfBoth) {
  const auto one = spec(3, 2, ScoreFunction::kSoftmaxBeforeTopk, false);
  const auto both = scores_backward(matrix(1, 3, {0, kLn2, kLn3}), ids(1, 2, {1, 1}), matrix(1, 2, {5, 7}), one);
  const auto single = scores_backward(matrix(1, 3, {0, kLn2, kLn3}), ids(1, 1, {1}), matrix(1, 1, {12}), one);
  EXPECT_EQ(both, single);
}

struct HandGradients {
  LayerGradient<double> layer;
  std::vector<ExpertGradient<double>> experts;
};

// x = (1, 2), d_y = (2, 1); HandWeights has the forward's numbers.
HandGradients hand_gradients(const IdMatrix& ids_TK, bool renormalise) {
  HandWeights weights;
  HandGradients result;
  const MoeLayerBackward<double> backward(hand_spec(ids_TK.cols(), renormalise), weights);
  result.layer = backward.backward(matrix(1, 2, {1, 2}), ids_TK, matrix(1, 2, {2, 1}),
                                   [&](ExpertGradient<double> gradient) { result.experts.push_back(std::move(gradient)); });
  return result;
}

TEST(MoeLayerBackward, GivesTheExpertGradientsThatWereWorkedOutByHand) {
  const auto [layer, experts] = hand_gradients(ids(1, 2, {0, 1}), true);
  ASSERT_EQ(experts.size(), 2U);
  // d_out = 3/4 (2, 1) and 1/4 (2, 1); act = 3/2 ln 3 and -3/4 ln 3.
  expect_near(experts[0].d_down_DF, matrix(2, 1, {2.25 * kLn3, 1.125 * kLn3}));
  expect_near(experts[1].d_down_DF, matrix(2, 1, {-0.375 * kLn3, -0.1875 * kLn3}));
  // d_act = 3/2 * 2 + 3/4 * 4 = 6 and 1/2 * 4 = 2; d_gate = d_act * up * silu', d_up = d_act * silu; times x = (1, 2).
  const double d_gate_0 = 6 * 2 * 0.75 * (1 + kLn3 / 4);
  const double d_gate_1 = 2 * 3 * 0.25 * (1 - 0.75 * kLn3);
  expect_near(experts[0].d_gate_up_GD, matrix(2, 2, {d_gate_0, 2 * d_gate_0, 4.5 * kLn3, 9 * kLn3}));
  expect_near(experts[1].d_gate_up_GD, matrix(2, 2, {d_gate_1, 2 * d_gate_1, -0.5 * kLn3, -kLn3}));
}

TEST(MoeLayerBackward, GivesTheRouterAndTokenGradientsThatWereWorkedOutByHand) {
  for (const bool renormalise : {false, true}) {  // both experts are chosen, so that the scores sum to 1 anyway
    const LayerGradient<double> layer = hand_gradients(ids(1, 2, {0, 1}), renormalise).layer;
    // d_s = <out, d_y> = (12, -6) ln 3, mean = 3/4 * 12 - 1/4 * 6 = 7.5;  3/4 * 4.5 and 1/4 * -13.5.
    expect_near(layer.d_scores_TK, matrix(1, 2, {12 * kLn3, -6 * kLn3}));
    expect_near(layer.d_logits_TE, matrix(1, 2, {3.375 * kLn3, -3.375 * kLn3}));
    expect_near(layer.d_router_ED, matrix(2, 2, {3.375 * kLn3, 6.75 * kLn3, -3.375 * kLn3, -6.75 * kLn3}));
    // Gates 9 (1 + ln3 / 4) ln3 - 3/2 (1 - 3/4 ln3) ln3 and router 3.375 ln3^2 at x0; ups 4.5 ln3 at x1, -1/2 ln3 at both.
    expect_near(layer.d_x_TD, matrix(1, 2, {7 * kLn3 + 6.75 * kLn3 * kLn3, 4 * kLn3}));
  }
}

TEST(MoeLayerBackward, WithOneExpertAndNoRenormalisationStillMovesBothLogits) {
  const auto [layer, experts] = hand_gradients(ids(1, 1, {0}), false);
  expect_near(layer.d_logits_TE, matrix(1, 2, {2.25 * kLn3, -2.25 * kLn3}));  // 3/4 (1 - 3/4) 12 ln 3
  EXPECT_FALSE(experts[0].is_idle());
  EXPECT_TRUE(experts[1].is_idle());
}

TEST(MoeLayerBackward, WithOneRenormalisedExpertHasAConstantScoreAndNoRouterGradient) {
  const LayerGradient<double> layer = hand_gradients(ids(1, 1, {0}), true).layer;
  EXPECT_EQ(layer.d_logits_TE, matrix(1, 2, {0, 0}));
  EXPECT_EQ(layer.d_router_ED, matrix(2, 2, {0, 0, 0, 0}));
}

}  // namespace
}  // namespace moecheck::reference
