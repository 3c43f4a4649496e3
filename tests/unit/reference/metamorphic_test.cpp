// Relations that hold for any correct layer (shared numbering M1 ... M13), needing no second implementation.
#include <numeric>

#include <gtest/gtest.h>

#include "tests/unit/reference/layer_fixtures.h"

namespace moecheck::reference {
namespace {

constexpr double kFloatRoundoff = 0x1p-24;
constexpr double kBothErr = 2;

class Metamorphic : public testing::TestWithParam<std::size_t> {
 protected:
  Metamorphic()
      : problem_(small_problem(router_variants()[GetParam()])),
        x_TD_(tokens_of<float>(problem_)),
        weights_(problem_),
        before_(MoeLayer<float>(problem_.model, weights_).forward(x_TD_)),
        bounds_(naive_forward(problem_, kFloatRoundoff).y) {}

  LayerOutput<float> forward(const Matrix<float>& x_TD) { return MoeLayer<float>(problem_.model, weights_).forward(x_TD); }
  Dim num_experts() const { return problem_.model.num_experts; }

  model::Problem problem_;
  Matrix<float> x_TD_;
  StoredWeights<float> weights_;
  LayerOutput<float> before_;
  std::vector<std::vector<Bounded>> bounds_;
};

INSTANTIATE_TEST_SUITE_P(MoeLayer, Metamorphic, testing::Range<std::size_t>(0, 3),
                         [](const auto& variant) { return router_variants()[variant.param].name; });

TEST_P(Metamorphic, M1PermutedTokensGivePermutedOutputs) {
  const Dim num_tokens = x_TD_.rows();
  const auto permuted = [&](const Matrix<float>& m) {
    Matrix<float> result(m.rows(), m.cols());
    for (Dim t = 0; t < num_tokens; ++t) result.row((t * 4 + 3) % num_tokens) = m.row(t);
    return result;
  };
  const Matrix<float> after_TD = forward(permuted(x_TD_)).y_TD;
  std::vector<std::vector<Bounded>> bounds(bounds_.size());
  for (Dim t = 0; t < num_tokens; ++t) bounds[static_cast<std::size_t>((t * 4 + 3) % num_tokens)] = bounds_[static_cast<std::size_t>(t)];
  EXPECT_LE(used_bound<float>(after_TD, permuted(before_.y_TD), bounds, kBothErr), 1.0);
}

TEST_P(Metamorphic, M2PermutedExpertsGiveTheSameOutput) {
  const StoredWeights<float> old = weights_;
  const auto moved = [&](Dim e) { return (e * 3 + 2) % num_experts(); };
  for (Dim e = 0; e < num_experts(); ++e) {
    weights_.w_router_ED.row(moved(e)) = old.w_router_ED.row(e);
    weights_.experts[static_cast<std::size_t>(moved(e))] = old.experts[static_cast<std::size_t>(e)];
  }
  const auto after = forward(x_TD_);
  EXPECT_EQ(after.ids_TK, before_.ids_TK.unaryExpr(moved).eval());
  EXPECT_LE(used_bound<float>(after.y_TD, before_.y_TD, bounds_, kBothErr), 1.0);
}

TEST_P(Metamorphic, M3ScalingDownByAPowerOfTwoScalesTheOutputBitwise) {
  for (const float factor : {8.0F, 0.25F, -1.0F}) {
    StoredWeights<float> scaled = weights_;
    for (auto& expert : scaled.experts) expert.w_down_DF *= factor;
    const auto after = MoeLayer<float>(problem_.model, scaled).forward(x_TD_);
    EXPECT_TRUE(after.y_TD == factor * before_.y_TD) << factor;
  }
}

TEST_P(Metamorphic, M5AZeroExpertTakesAwayItsTermAndNothingElse) {
  const Dim victim = before_.ids_TK(0, 0);
  Matrix<float> without_TD = before_.y_TD;
  for (Dim t = 0; t < x_TD_.rows(); ++t)
    for (Dim k = 0; k < before_.ids_TK.cols(); ++k)
      if (before_.ids_TK(t, k) == victim)
        without_TD.row(t) -= before_.scores_TK(t, k) *
                             expert_output<float>(x_TD_.row(t), weights_.experts[static_cast<std::size_t>(victim)]).row(0);
  weights_.experts[static_cast<std::size_t>(victim)].w_down_DF.setZero();
  const auto after = forward(x_TD_);
  // The subtraction rounds once more, on numbers no larger than the output and the term.
  EXPECT_LE(used_bound<float>(after.y_TD, without_TD, bounds_, kBothErr), 1.0);
  for (Dim t = 0; t < x_TD_.rows(); ++t)
    if ((before_.ids_TK.row(t).array() != victim).all()) {
      EXPECT_TRUE(after.y_TD.row(t) == before_.y_TD.row(t)) << t;
    }
}

TEST_P(Metamorphic, M6WithIdenticalExpertsTheOutputIsTheScoreSumTimesTheDenseFfn) {
  for (auto& expert : weights_.experts) expert = weights_.experts.front();
  const auto after = forward(x_TD_);
  const Matrix<float> dense_TD = expert_output(x_TD_, weights_.experts.front());
  const auto sums_T = after.scores_TK.rowwise().sum().eval();
  Matrix<float> expected_TD(dense_TD.rows(), dense_TD.cols());
  for (Dim t = 0; t < x_TD_.rows(); ++t) expected_TD.row(t) = sums_T(t) * dense_TD.row(t);
  const bool sums_to_one = problem_.model.score_function == model::ScoreFunction::kSoftmaxAfterTopk || problem_.model.renormalise;
  // K products and sums more than in the dense network, and the row may go through another kernel.
  const double terms = static_cast<double>(problem_.model.d_model + problem_.model.d_ff + problem_.model.top_k);
  const auto scale = dense_TD.cwiseAbs().maxCoeff();
  for (Dim t = 0; t < x_TD_.rows(); ++t) {
    if (sums_to_one) {
      EXPECT_NEAR(static_cast<double>(sums_T(t)), 1.0, 4 * static_cast<double>(problem_.model.top_k) * kFloatRoundoff);
    }
    EXPECT_LE((after.y_TD.row(t) - expected_TD.row(t)).cwiseAbs().maxCoeff(), 4 * terms * kFloatRoundoff * static_cast<double>(scale));
  }
}

TEST_P(Metamorphic, M7AnUnusedExpertChangesNoBit) {
  ASSERT_LE(before_.ids_TK.maxCoeff(), num_experts() - 1);
  model::ModelSpec with_one_more = problem_.model;
  ++with_one_more.num_experts;
  ExpertSum<float> wider(x_TD_, before_.ids_TK, before_.scores_TK, with_one_more);
  EXPECT_FALSE(wider.needs(num_experts()));
  for (Dim e = 0; e < num_experts(); ++e)
    if (wider.needs(e)) wider.add(e, weights_.expert(e));
  EXPECT_TRUE(wider.y_TD() == before_.y_TD);
  Matrix<float> logits_TE(x_TD_.rows(), num_experts() + 1);
  logits_TE << before_.logits_TE, Matrix<float>::Constant(x_TD_.rows(), 1, -INFINITY);
  EXPECT_EQ(choose_experts(logits_TE, problem_.model), before_.ids_TK);
  const auto scores_TK = scores_from_logits(logits_TE, before_.ids_TK, problem_.model);
  // One more zero in the sum may regroup it.
  const double regrouped = 2 * static_cast<double>(num_experts() + 1) * kFloatRoundoff;
  EXPECT_LE(((scores_TK - before_.scores_TK).cwiseQuotient(before_.scores_TK)).cwiseAbs().maxCoeff(), regrouped);
}

TEST_P(Metamorphic, M8DuplicatedTokensGetTheSameOutput) {
  Matrix<float> twice_TD(2 * x_TD_.rows(), x_TD_.cols());
  twice_TD << x_TD_, x_TD_;
  const Matrix<float> after_TD = forward(twice_TD).y_TD;
  EXPECT_LE(used_bound<float>(after_TD.topRows(x_TD_.rows()), before_.y_TD, bounds_, kBothErr), 1.0);
  EXPECT_LE(used_bound<float>(after_TD.bottomRows(x_TD_.rows()), before_.y_TD, bounds_, kBothErr), 1.0);
}

TEST_P(Metamorphic, M12AConstantAddedToTheLogitsChangesNoScore) {
  constexpr float kShift = 3.25F;
  const Matrix<float> shifted_TE = before_.logits_TE.array() + kShift;
  EXPECT_EQ(choose_experts(shifted_TE, problem_.model), before_.ids_TK);
  const auto after_TK = scores_from_logits(shifted_TE, before_.ids_TK, problem_.model);
  // exp turns the absolute rounding of a shifted logit into a relative one; it enters a score and the sum below it.
  const auto largest = static_cast<double>(shifted_TE.cwiseAbs().maxCoeff());
  const double bound = 4 * (largest + static_cast<double>(num_experts())) * kFloatRoundoff;
  EXPECT_LE((after_TK - before_.scores_TK).cwiseQuotient(before_.scores_TK).cwiseAbs().maxCoeff(), bound);
}

TEST_P(Metamorphic, M13TheOutputIsLinearInTheScores) {
  const auto combined = [&](const Matrix<float>& scores_TK) {
    ExpertSum<float> sum(x_TD_, before_.ids_TK, scores_TK, problem_.model);
    for (Dim e = 0; e < num_experts(); ++e)
      if (sum.needs(e)) sum.add(e, weights_.expert(e));
    return sum.y_TD();
  };
  const Matrix<float> other_TK = before_.scores_TK.rowwise().reverse() * 0.5F;
  const Matrix<float> sum_TD = combined(before_.scores_TK) + combined(other_TK);
  // Scores grew by at most half of the largest, which is below 1, and with them the bound.
  EXPECT_LE(used_bound<float>(combined(before_.scores_TK + other_TK), sum_TD, bounds_, 2 * kBothErr), 1.0);
}

}  // namespace
}  // namespace moecheck::reference
