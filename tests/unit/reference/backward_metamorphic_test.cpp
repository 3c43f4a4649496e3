// Relations that hold for the gradients of any correct layer (shared numbering M3 ... M18), needing no second implementation;
// only the size of the rounding errors is taken from the naive one.
#include <cmath>

#include <gtest/gtest.h>

#include "reference/optimizer.h"
#include "tests/unit/reference/backward_fixtures.h"

namespace moecheck::reference {
namespace {

constexpr double kDoubleRoundoff = 0x1p-53;
constexpr double kBothErr = 2;

class BackwardRelation : public testing::TestWithParam<std::size_t> {
 protected:
  BackwardRelation()
      : problem_(small_problem(router_variants()[GetParam()])),
        one_(backward_case<double>(problem_)),
        before_(gradients_of(one_)),
        naive_(naive_backward(one_, kDoubleRoundoff)) {}

  Dim num_experts() const { return one_.spec.num_experts; }
  const Matrix<double>& bound(const std::string& name) const { return naive_.gradients.at(name).bound; }
  // Of the weights only: what does not have a row for each token.
  std::vector<std::string> weight_names() const {
    std::vector<std::string> names = {"router"};
    for (Dim e = 0; e < num_experts(); ++e) {
      names.push_back(expert_name("gate_up", e));
      names.push_back(expert_name("down", e));
    }
    return names;
  }

  model::Problem problem_;
  BackwardCase<double> one_;
  NamedMatrices<double> before_;
  NaiveBackward naive_;
};

INSTANTIATE_TEST_SUITE_P(Backward, BackwardRelation, testing::Range<std::size_t>(0, 3),
                         [](const auto& variant) { return router_variants()[variant.param].name; });

template <typename Scalar>
void expect_scaled_bitwise(const NamedMatrices<Scalar>& after, const NamedMatrices<Scalar>& before, Scalar factor) {
  for (const auto& [name, gradient] : before) EXPECT_TRUE(after.at(name) == factor * gradient) << name << " times " << factor;
}

template <typename Scalar>
void expect_m3_and_m4(const model::Problem& problem) {
  const auto one = backward_case<Scalar>(problem);
  auto copy = one;
  const NamedMatrices<Scalar> before = gradients_of(copy);
  for (const Scalar factor : {Scalar{8}, Scalar{0.25}, Scalar{-1}}) {
    auto louder = one;
    louder.d_y_TD *= factor;
    expect_scaled_bitwise(gradients_of(louder), before, factor);

    auto scaled = one;
    for (auto& expert : scaled.weights.experts) expert.w_down_DF *= factor;
    NamedMatrices<Scalar> expected = before;
    for (Dim e = 0; e < one.spec.num_experts; ++e) expected[expert_name("down", e)] /= factor;  // does not see W_2
    expect_scaled_bitwise(gradients_of(scaled), expected, factor);
  }
}

TEST_P(BackwardRelation, M3AndM4PowersOfTwoOfDownOrOfTheOutputsGradientComeThroughBitwise) {
  expect_m3_and_m4<float>(problem_);
  expect_m3_and_m4<double>(problem_);
}

TEST_P(BackwardRelation, M8ADuplicatedTokenAddsItsGradients) {
  auto twice = one_;
  const Dim num_tokens = one_.x_TD.rows();
  twice.x_TD = one_.x_TD.replicate(2, 1);
  twice.ids_TK = one_.ids_TK.replicate(2, 1);
  twice.d_y_TD = one_.d_y_TD.replicate(2, 1);
  twice.d_y_TD.bottomRows(num_tokens) *= 3;
  const auto after = gradients_of(twice);
  for (const std::string& name : weight_names())
    EXPECT_LE(used_bound(after.at(name), {4 * before_.at(name), 4 * bound(name)}, kBothErr), 1.0) << name;
  for (const char* name : {"x", "scores", "logits"}) {
    const Matrix<double> first = after.at(name).topRows(num_tokens), second = after.at(name).bottomRows(num_tokens);
    EXPECT_LE(used_bound(first, {before_.at(name), bound(name)}, kBothErr), 1.0) << name;
    EXPECT_LE(used_bound(second, {3 * before_.at(name), 3 * bound(name)}, kBothErr), 1.0) << name;
  }
}

// M9, M18: the loss is a sum over tokens.
TEST_P(BackwardRelation, M9MicrobatchesAddUpToTheFullBatch) {
  constexpr Dim kFirst = 4;
  auto first = one_, second = one_;
  const Dim rest = one_.x_TD.rows() - kFirst;
  for (auto [part, begin, count] : {std::tuple{&first, Dim{0}, kFirst}, std::tuple{&second, kFirst, rest}}) {
    part->x_TD = one_.x_TD.middleRows(begin, count);
    part->ids_TK = one_.ids_TK.middleRows(begin, count);
    part->d_y_TD = one_.d_y_TD.middleRows(begin, count);
  }
  const auto of_first = gradients_of(first), of_second = gradients_of(second);
  for (const std::string& name : weight_names()) {
    GradientSum<double> sum(before_.at(name).rows(), before_.at(name).cols());
    sum.add(of_first.at(name));
    sum.add(of_second.at(name));
    EXPECT_LE(used_bound(sum.sum(), {before_.at(name), bound(name)}, kBothErr), 1.0) << name;
    EXPECT_TRUE(sum.mean(2) == 0.5 * sum.sum()) << name;
  }
}

struct BoundedSum {
  double value = 0;
  double bound = 0;
};

// <a, gradient>, with the error of the gradient and of at most n roundings of the sum itself.
BoundedSum dot(const Matrix<double>& a, const Matrix<double>& gradient, const Matrix<double>& bound) {
  const auto n = static_cast<double>(a.size());
  const double magnitude = a.cwiseProduct(gradient).cwiseAbs().sum();
  return {a.cwiseProduct(gradient).sum(), a.cwiseAbs().cwiseProduct(bound).sum() + 2 * n * kDoubleRoundoff * magnitude};
}

// M14, Euler: the output is homogeneous of degree one in W_2, in W_3 (up) and in the scores.
TEST_P(BackwardRelation, M14EulersIdentitiesHoldForEachExpertAndForTheLayer) {
  const auto layer = MoeLayer<double>(one_.spec, one_.weights).forward(one_.x_TD, one_.ids_TK);
  BoundedSum all_down, all_up;
  for (Dim e = 0; e < num_experts(); ++e) {
    const auto& expert = one_.weights.experts[static_cast<std::size_t>(e)];
    const std::string gate_up = expert_name("gate_up", e), down = expert_name("down", e);
    const Dim d_ff = one_.spec.d_ff;
    const BoundedSum of_down = dot(expert.w_down_DF, before_.at(down), bound(down));
    const BoundedSum of_up = dot(expert.w_gate_up_GD.bottomRows(d_ff), before_.at(gate_up).bottomRows(d_ff),
                                 bound(gate_up).bottomRows(d_ff));
    const Matrix<double> own_TK = layer.scores_TK.cwiseProduct((one_.ids_TK.array() == e).matrix().cast<double>());
    const BoundedSum of_scores = dot(own_TK, before_.at("scores"), bound("scores"));
    EXPECT_NE(of_down.value, 0) << "expert " << e << ": nothing compared";
    EXPECT_LE(std::fabs(of_down.value - of_scores.value), of_down.bound + of_scores.bound) << "expert " << e;
    EXPECT_LE(std::fabs(of_up.value - of_scores.value), of_up.bound + of_scores.bound) << "expert " << e;
    EXPECT_LT(of_down.bound + of_up.bound, 1e-9 * std::fabs(of_down.value)) << "expert " << e << ": a bound that nothing exceeds";
    all_down = {all_down.value + of_down.value, all_down.bound + of_down.bound};
    all_up = {all_up.value + of_up.value, all_up.bound + of_up.bound};
  }
  const double of_output = layer.y_TD.cwiseProduct(one_.d_y_TD).sum();
  const BoundedSum of_scores = dot(layer.scores_TK, before_.at("scores"), bound("scores"));
  EXPECT_LE(std::fabs(all_down.value - of_output), all_down.bound + naive_.loss_bound);
  EXPECT_LE(std::fabs(all_up.value - of_output), all_up.bound + naive_.loss_bound);
  EXPECT_LE(std::fabs(of_scores.value - of_output), of_scores.bound + naive_.loss_bound);
}

// M15: a constant added to all logits of a token changes no score.
TEST_P(BackwardRelation, M15LogitGradientsOfATokenAndRouterGradientsOverExpertsSumToZero) {
  for (const char* name : {"logits", "router"}) {
    const bool over_columns = std::string(name) == "logits";
    const Matrix<double> gradient = over_columns ? before_.at(name) : before_.at(name).transpose();
    const Matrix<double> limit = over_columns ? bound(name) : bound(name).transpose();
    EXPECT_GT(gradient.cwiseAbs().maxCoeff(), 0.1) << name << ": nothing compared";
    for (Dim i = 0; i < gradient.rows(); ++i) EXPECT_LE(std::fabs(gradient.row(i).sum()), limit.row(i).sum()) << name << " " << i;
  }
}

// M16, routing that leaves expert 3 without tokens.
TEST_P(BackwardRelation, M16AnExpertsGradientIsZeroExactlyIfNoTokenChoseIt) {
  constexpr Dim kIdle = 3;
  for (Dim t = 0; t < one_.ids_TK.rows(); ++t)
    for (Dim k = 0; k < one_.spec.top_k; ++k) one_.ids_TK(t, k) = (kIdle + 1 + (t + 2 * k) % (num_experts() - 1)) % num_experts();
  const auto sink = [&](const ExpertGradient<double>& gradient) {
    EXPECT_EQ(gradient.is_idle(), gradient.expert == kIdle);
    EXPECT_EQ(gradient.num_rows, (one_.ids_TK.array() == gradient.expert).count());
    EXPECT_EQ(gradient.d_gate_up_GD.isZero(0), gradient.is_idle()) << gradient.expert;
    EXPECT_EQ(gradient.d_down_DF.isZero(0), gradient.is_idle()) << gradient.expert;
    EXPECT_EQ(gradient.d_gate_up_GD.rows(), one_.spec.gate_up_rows());
    EXPECT_EQ(gradient.d_gate_up_GD.cols(), one_.spec.d_model);
    EXPECT_EQ(gradient.d_down_DF.rows(), one_.spec.d_model);
    EXPECT_EQ(gradient.d_down_DF.cols(), one_.spec.d_ff);
  };
  MoeLayerBackward<double>(one_.spec, one_.weights).backward(one_.x_TD, one_.ids_TK, one_.d_y_TD, sink);
}

TEST_P(BackwardRelation, M16AnExpertChangesOnlyTheGradientsOfItsOwnTokens) {
  const Dim victim = one_.ids_TK(0, 0);
  one_.weights.experts[static_cast<std::size_t>(victim)].w_gate_up_GD *= 1.5;
  const auto after = gradients_of(one_);
  Dim num_untouched = 0;
  for (Dim t = 0; t < one_.x_TD.rows(); ++t) {
    const bool is_its_token = (one_.ids_TK.row(t).array() == victim).any();
    for (const char* name : {"x", "scores", "logits"})
      EXPECT_EQ(after.at(name).row(t) != before_.at(name).row(t), is_its_token) << name << " of token " << t;
    num_untouched += is_its_token ? 0 : 1;
  }
  EXPECT_GT(num_untouched, 0);
}

TEST_P(BackwardRelation, M16ATokenWithoutAGradientAddsNothing) {
  one_.d_y_TD.setZero();
  for (const auto& [name, gradient] : gradients_of(one_)) EXPECT_TRUE(gradient.isZero(0)) << name;
}

// Exact values, whole d_y and scores of 1/K: nothing rounds, so that float and double agree. Without renormalisation the
// experts that were not chosen get p_j = exp(-64) / K, which does round.
TEST(ExactBackward, FloatAndDoubleAgreeBitForBit) {
  for (const Dim top_k : {1, 2, 4, 8})
    for (const std::size_t variant : {0U, 2U}) {
      model::Problem problem = exact_problem(top_k, 3);
      problem.model.score_function = router_variants()[variant].score_function;
      auto narrow = backward_case<float>(problem);
      auto wide = backward_case<double>(problem);
      const auto expected = gradients_of(wide);
      for (const auto& [name, gradient] : gradients_of(narrow))
        EXPECT_TRUE(gradient.cast<double>() == expected.at(name)) << name << " top " << top_k << " variant " << variant;
      EXPECT_FALSE(expected.at("x").isZero(0));
    }
}

}  // namespace
}  // namespace moecheck::reference
