// Cases small enough to be worked out by hand; the numbers are written out.
#include <cmath>

#include <gtest/gtest.h>

#include "reference/combine.h"
#include "reference/dispatch.h"
#include "reference/experts.h"
#include "reference/moe_layer.h"
#include "reference/router.h"

namespace moecheck::reference {
namespace {

using model::SoftmaxOrder;

constexpr double kLn2 = 0.69314718055994530942;
constexpr double kLn3 = 1.09861228866810969140;

Matrix<double> matrix(Dim rows, Dim columns, std::vector<double> values) {
  return Eigen::Map<const Matrix<double>>(values.data(), rows, columns);
}

IdMatrix ids(Dim rows, Dim columns, std::vector<Dim> values) { return Eigen::Map<const IdMatrix>(values.data(), rows, columns); }

model::ModelSpec spec(Dim num_experts, Dim top_k, SoftmaxOrder order, bool renormalise) {
  model::ModelSpec made;
  made.num_experts = num_experts;
  made.top_k = top_k;
  made.softmax = order;
  made.renormalise = renormalise;
  return made;
}

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
  const auto s = scores_from_logits(logits_TE, ids(1, 2, {2, 1}), spec(3, 2, SoftmaxOrder::kBeforeTopk, false));
  EXPECT_DOUBLE_EQ(s(0, 0), 3.0 / 6);
  EXPECT_DOUBLE_EQ(s(0, 1), 2.0 / 6);
}

TEST(Router, RenormalisedScoresAreSharesOfTheChosen) {
  const auto logits_TE = matrix(1, 3, {0, kLn2, kLn3});
  const auto s = scores_from_logits(logits_TE, ids(1, 2, {2, 1}), spec(3, 2, SoftmaxOrder::kBeforeTopk, true));
  EXPECT_DOUBLE_EQ(s(0, 0), 3.0 / 5);
  EXPECT_DOUBLE_EQ(s(0, 1), 2.0 / 5);
}

TEST(Router, ScoresAfterTopKAreSharesOfTheChosenWhateverRenormaliseSays) {
  const auto logits_TE = matrix(1, 3, {0, kLn2, kLn3});
  for (const bool renormalise : {false, true}) {
    const auto s = scores_from_logits(logits_TE, ids(1, 2, {0, 2}), spec(3, 2, SoftmaxOrder::kAfterTopk, renormalise));
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
                                    spec(3, 1, SoftmaxOrder::kBeforeTopk, false));
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
  EXPECT_EQ(silu(0.0), 0.0);
  EXPECT_DOUBLE_EQ(silu(kLn3), kLn3 * 3.0 / 4);    // sigmoid(ln 3) = 3 / 4
  EXPECT_DOUBLE_EQ(silu(-kLn3), -kLn3 * 1.0 / 4);
  EXPECT_EQ(silu(64.0), 64.0);
  EXPECT_EQ(silu(32.0F), 32.0F);
  EXPECT_EQ(silu(-1000.0), 0.0);
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

// One token x = (1, 2), two experts with F = 1, both chosen, scores 3/4 and 1/4.
// Expert 0: gate = ln 3 * x0 -> silu = 3/4 ln 3, up = x1 = 2, act = 3/2 ln 3, down (2, 4) -> (3 ln 3, 6 ln 3).
// Expert 1: gate = -ln 3 * x0 -> silu = -1/4 ln 3, up = x0 + x1 = 3, act = -3/4 ln 3, down (4, 0) -> (-3 ln 3, 0).
// y = 3/4 (3, 6) ln 3 + 1/4 (-3, 0) ln 3 = (3/2, 9/2) ln 3.
class HandWeights final : public Weights<double> {
 public:
  HandWeights() : experts_{{matrix(2, 2, {kLn3, 0, 0, 1}), matrix(2, 1, {2, 4})}, {matrix(2, 2, {-kLn3, 0, 1, 1}), matrix(2, 1, {4, 0})}} {}
  Matrix<double> router_ED() override { return matrix(2, 2, {kLn3, 0, 0, 0}); }
  const ExpertWeights<double>& expert(Dim expert_id) override { return experts_[static_cast<std::size_t>(expert_id)]; }

 private:
  std::vector<ExpertWeights<double>> experts_;
};

TEST(MoeLayer, GivesTheNumbersThatWereWorkedOutByHand) {
  HandWeights weights;
  auto both = spec(2, 2, SoftmaxOrder::kBeforeTopk, true);
  both.d_model = 2;
  both.d_ff = 1;
  const auto layer = MoeLayer<double>(both, weights).forward(matrix(1, 2, {1, 2}));
  EXPECT_EQ(layer.ids_TK, ids(1, 2, {0, 1}));
  EXPECT_DOUBLE_EQ(layer.scores_TK(0, 0), 0.75);
  EXPECT_DOUBLE_EQ(layer.y_TD(0, 0), 1.5 * kLn3);
  EXPECT_DOUBLE_EQ(layer.y_TD(0, 1), 4.5 * kLn3);
}

TEST(MoeLayer, OfOneExpertIsThatExpertTimesItsProbability) {
  HandWeights weights;
  auto one = spec(2, 1, SoftmaxOrder::kBeforeTopk, false);
  one.d_model = 2;
  one.d_ff = 1;
  const auto layer = MoeLayer<double>(one, weights).forward(matrix(1, 2, {1, 2}));
  EXPECT_DOUBLE_EQ(layer.y_TD(0, 0), 0.75 * 3 * kLn3);
  EXPECT_DOUBLE_EQ(layer.y_TD(0, 1), 0.75 * 6 * kLn3);
}

}  // namespace
}  // namespace moecheck::reference
