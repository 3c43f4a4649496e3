// Cases small enough to be worked out by hand; the numbers are written out.
#include <cmath>

#include <gtest/gtest.h>

#include "reference/combine.h"
#include "reference/dispatch.h"
#include "reference/experts.h"
#include "reference/moe_layer.h"
#include "reference/router.h"
#include "tests/unit/reference/hand_fixtures.h"

namespace moecheck::reference {
namespace {

using model::ScoreFunction;

TEST(Router, MultipliesTokensWithRouterRows) {
  const auto logits_TE = router_logits(matrix(2, 3, {1, 2, 3, -1, 0, 1}), matrix(2, 3, {1, 1, 1, 2, 0, -1}));
  EXPECT_EQ(logits_TE, matrix(2, 2, {6, -1, 0, -3}));
}

TEST(Router, SoftmaxOfLogarithmsIsTheirShare) {
  const auto p = softmax(matrix(1, 3, {0, kLn2, kLn3}));
  EXPECT_DOUBLE_EQ(p(0, 0), 1.0 / 6);
  EXPECT_DOUBLE_EQ(p(0, 1), 2.0 / 6);
  EXPECT_DOUBLE_EQ(p(0, 2), 3.0 / 6);
}

TEST(Router, SoftmaxDoesNotOverflow) {
  const auto p = softmax(matrix(1, 2, {1000, 1000}));
  EXPECT_EQ(p, matrix(1, 2, {0.5, 0.5}));
}

TEST(Router, ScoresBeforeTopKAreSharesOfAllExperts) {
  const auto logits_TE = matrix(1, 3, {0, kLn2, kLn3});
  const auto s = scores_from_logits(logits_TE, ids(1, 2, {2, 1}), spec(3, 2, ScoreFunction::kSoftmaxBeforeTopk, false));
  EXPECT_DOUBLE_EQ(s(0, 0), 3.0 / 6);
  EXPECT_DOUBLE_EQ(s(0, 1), 2.0 / 6);
}

TEST(Router, RenormalisedScoresAreSharesOfTheChosen) {
  const auto logits_TE = matrix(1, 3, {0, kLn2, kLn3});
  const auto s = scores_from_logits(logits_TE, ids(1, 2, {2, 1}), spec(3, 2, ScoreFunction::kSoftmaxBeforeTopk, true));
  EXPECT_DOUBLE_EQ(s(0, 0), 3.0 / 5);
  EXPECT_DOUBLE_EQ(s(0, 1), 2.0 / 5);
}

TEST(Router, ScoresAfterTopKAreSharesOfTheChosenWhateverRenormaliseSays) {
  const auto logits_TE = matrix(1, 3, {0, kLn2, kLn3});
  for (const bool renormalise : {false, true}) {
    const auto s = scores_from_logits(logits_TE, ids(1, 2, {0, 2}), spec(3, 2, ScoreFunction::kSoftmaxAfterTopk, renormalise));
    EXPECT_DOUBLE_EQ(s(0, 0), 1.0 / 4);
    EXPECT_DOUBLE_EQ(s(0, 1), 3.0 / 4);
  }
}

TEST(Router, TopKTakesTheLargestFirstAndTheLowestIdOfTies) {
  EXPECT_EQ(top_k(matrix(2, 4, {1, 7, 3, 7, 5, 5, 5, 5}), 3), ids(2, 3, {1, 3, 2, 0, 1, 2}));
}

TEST(Router, TopKCountsNanAsLargest) {
  EXPECT_EQ(top_k(matrix(1, 4, {1, 9, std::nan(""), 3}), 2), ids(1, 2, {2, 1}));
}

TEST(Router, ANanLogitMakesTheScoresOfItsTokenNanOnly) {
  const auto s = scores_from_logits(matrix(2, 3, {0, std::nan(""), 1, 0, 0, 0}), ids(2, 1, {0, 0}),
                                    spec(3, 1, ScoreFunction::kSoftmaxBeforeTopk, false));
  EXPECT_TRUE(std::isnan(s(0, 0)));
  EXPECT_DOUBLE_EQ(s(1, 0), 1.0 / 3);
}

TEST(Dispatch, GroupsRowsByExpertThenTokenThenSlot) {
  const Dispatch result = dispatch(ids(3, 2, {2, 0, 0, 2, 3, 0}), 5);
  const std::vector<RoutedRow> expected = {{0, 1, 0}, {1, 0, 0}, {2, 1, 0}, {0, 0, 2}, {1, 1, 2}, {2, 0, 3}};
  EXPECT_EQ(result.rows_N, expected);
  EXPECT_EQ(result.rows_of(0).size(), 3U);
  EXPECT_TRUE(result.rows_of(1).empty());
  EXPECT_EQ(result.rows_of(2).size(), 2U);
  EXPECT_EQ(result.rows_of(3).front(), (RoutedRow{2, 0, 3}));
  EXPECT_TRUE(result.rows_of(4).empty());
}

TEST(Dispatch, GathersTheTokenOfEachRow) {
  const std::vector<RoutedRow> rows = {{2, 0, 0}, {0, 1, 0}, {2, 1, 0}};
  EXPECT_EQ(gather_tokens<double>(matrix(3, 2, {1, 2, 3, 4, 5, 6}), rows), matrix(3, 2, {5, 6, 1, 2, 5, 6}));
}

TEST(Experts, SiluAtZeroAndAtLogarithms) {
  EXPECT_EQ(swish(0.0), 0.0);
  EXPECT_DOUBLE_EQ(swish(kLn3), kLn3 * 3.0 / 4);    // sigmoid(ln 3) = 3 / 4
  EXPECT_DOUBLE_EQ(swish(-kLn3), -kLn3 * 1.0 / 4);
  EXPECT_EQ(swish(64.0), 64.0);
  EXPECT_EQ(swish(32.0F), 32.0F);
  EXPECT_EQ(swish(-1000.0), 0.0);
}

TEST(Experts, SwigluPairsGateWithTheUpOfTheSameColumn) {
  const auto act_RF = swiglu(matrix(1, 4, {kLn3, -kLn3, 8, 4}));
  EXPECT_DOUBLE_EQ(act_RF(0, 0), 6 * kLn3);
  EXPECT_DOUBLE_EQ(act_RF(0, 1), -kLn3);
}

TEST(Experts, GateUpAndDownMultiplyWithRowsOfTheWeights) {
  EXPECT_EQ(gate_up(matrix(1, 2, {2, 3}), matrix(4, 2, {1, 0, 0, 1, 1, 1, 1, -1})), matrix(1, 4, {2, 3, 5, -1}));
  EXPECT_EQ(down(matrix(1, 2, {2, 3}), matrix(3, 2, {1, 0, 0, 1, 10, 100})), matrix(1, 3, {2, 3, 320}));
}

TEST(Combine, WeighsEachRowWithTheScoreOfItsSlot) {
  Combine<double> combine(matrix(2, 2, {0.5, 0.25, 1, 2}), 2);
  const std::vector<RoutedRow> first = {{0, 0, 3}, {1, 1, 3}};
  const std::vector<RoutedRow> second = {{0, 1, 4}};
  combine.add(first, matrix(2, 2, {8, 16, 1, 10}));
  combine.add(second, matrix(1, 2, {4, -4}));
  EXPECT_EQ(combine.y_TD(), matrix(2, 2, {5, 7, 2, 20}));
}

TEST(MoeLayer, GivesTheNumbersThatWereWorkedOutByHand) {
  HandWeights weights;
  const auto layer = MoeLayer<double>(hand_spec(2, true), weights).forward(matrix(1, 2, {1, 2}));
  EXPECT_EQ(layer.ids_TK, ids(1, 2, {0, 1}));
  EXPECT_DOUBLE_EQ(layer.scores_TK(0, 0), 0.75);
  EXPECT_DOUBLE_EQ(layer.y_TD(0, 0), 1.5 * kLn3);
  EXPECT_DOUBLE_EQ(layer.y_TD(0, 1), 4.5 * kLn3);
}

TEST(MoeLayer, OfOneExpertIsThatExpertTimesItsProbability) {
  HandWeights weights;
  const auto layer = MoeLayer<double>(hand_spec(1, false), weights).forward(matrix(1, 2, {1, 2}));
  EXPECT_DOUBLE_EQ(layer.y_TD(0, 0), 0.75 * 3 * kLn3);
  EXPECT_DOUBLE_EQ(layer.y_TD(0, 1), 0.75 * 6 * kLn3);
}

}  // namespace
}  // namespace moecheck::reference
