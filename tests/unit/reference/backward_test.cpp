// The gradients against a naive second formulation and against differences of the forward.
#include "reference/backward.h"

#include <cmath>
#include <functional>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/reference/backward_fixtures.h"

namespace moecheck::reference {
namespace {

constexpr double kFloatRoundoff = 0x1p-24;
constexpr double kDoubleRoundoff = 0x1p-53;
constexpr double kBothErr = 2;

class BackwardVariant : public testing::TestWithParam<std::size_t> {
 protected:
  RouterVariant variant() const { return layer_variants()[GetParam()]; }
};

std::string variant_name(const testing::TestParamInfo<std::size_t>& variant) { return layer_variants()[variant.param].name; }
INSTANTIATE_TEST_SUITE_P(Backward, BackwardVariant, testing::Range<std::size_t>(0, 6), variant_name);

template <typename Scalar>
void expect_within(const NamedMatrices<Scalar>& computed, const NaiveBackward& naive, double factor) {
  ASSERT_EQ(computed.size(), naive.gradients.size());
  for (const auto& [name, expected] : naive.gradients) EXPECT_LE(used_bound(computed.at(name), expected, factor), 1.0) << name;
}

TEST_P(BackwardVariant, AgreesInDoubleWithANaiveFormulation) {
  auto one = backward_case<double>(small_problem(variant()));
  const NaiveBackward naive = naive_backward(one, kDoubleRoundoff);
  expect_within(gradients_of(one), naive, kBothErr);
  for (const char* name : {"x", "router", "scores", "logits"}) {
    const BoundedGradient& gradient = naive.gradients.at(name);
    const double largest = gradient.value.cwiseAbs().maxCoeff();
    EXPECT_GT(largest, 0.1) << name << ": a comparison of zeros";
    EXPECT_LT(gradient.bound.maxCoeff(), 1e-9 * largest) << name << ": a bound that nothing exceeds";
  }
}

TEST_P(BackwardVariant, AgreesInFloatWithinTheDerivedBound) {
  const model::Problem problem = small_problem(variant());
  auto one = backward_case<float>(problem);
  expect_within(gradients_of(one), naive_backward(backward_case<double>(problem), kFloatRoundoff), 1);
}

TEST_P(BackwardVariant, SeesAnErrorOfOnePartInAThousandInOneWeight) {
  auto one = backward_case<float>(small_problem(variant()));
  const NaiveBackward naive = naive_backward(backward_case<double>(small_problem(variant())), kFloatRoundoff);
  const Dim expert = one.ids_TK(0, 0);
  const std::string gate_up = expert_name("gate_up", expert);
  one.weights.experts[static_cast<std::size_t>(expert)].w_down_DF.row(2) *= 1.001F;
  EXPECT_GT(used_bound(gradients_of(one).at(gate_up), naive.gradients.at(gate_up), 1), 1.0);
}

// The loss <y, d_y> as a function of one number that moves away from 0.
using Loss = std::function<double(double)>;

struct Difference {
  double value = 0;
  double bound = 0;  // |value - slope|
};

// (L(h) - L(-h)) / 2h = L' + h^2/6 L''' + O(h^4); its rounding is 2 loss_error / 2h. h ~ u^(1/3) balances the two.
// L''' is taken from a wider stencil: (L(2H) - 2 L(H) + 2 L(-H) - L(-2H)) / 2H^3.
Difference central_difference(const Loss& loss, double loss_error) {
  constexpr double kH = 0x1p-17;
  constexpr double kWide = 0x1p-6;
  constexpr double kThirdDerivativeVaries = 2;
  const double third = (loss(2 * kWide) - 2 * loss(kWide) + 2 * loss(-kWide) - loss(-2 * kWide)) / (2 * kWide * kWide * kWide);
  return {(loss(kH) - loss(-kH)) / (2 * kH), kThirdDerivativeVaries * kH * kH / 6 * std::fabs(third) + loss_error / kH};
}

double loss_of(BackwardCase<double>& one) {
  return MoeLayer<double>(one.spec, one.weights, one.position).forward(one.x_TD, one.ids_TK).y_TD.cwiseProduct(one.d_y_TD).sum();
}

double loss_of_scores(BackwardCase<double>& one, const Matrix<double>& scores_TK) {
  ExpertSum<double> sum(one.x_TD, one.ids_TK, scores_TK, one.spec, one.position);
  for (Dim e = 0; e < one.spec.num_experts; ++e)
    if (sum.needs(e)) sum.add(e, one.weights.expert(e));
  return sum.y_TD().cwiseProduct(one.d_y_TD).sum();
}

// Where a perturbation goes in, and the loss behind it.
struct Variable {
  Matrix<double>* matrix;
  std::function<double()> loss;
};

// Every variable that the layer has a gradient of, by the gradient's name.
class Variables {
 public:
  explicit Variables(BackwardCase<double> one) : one_(std::move(one)) {
    const auto layer = MoeLayer<double>(one_.spec, one_.weights, one_.position).forward(one_.x_TD, one_.ids_TK);
    logits_TE_ = layer.logits_TE;
    scores_TK_ = layer.scores_TK;
    const auto whole = [this] { return loss_of(one_); };
    by_name["x"] = {&one_.x_TD, whole};
    by_name["router"] = {&one_.weights.w_router_ED, whole};
    for (Dim e = 0; e < one_.spec.num_experts; ++e) {
      auto& expert = one_.weights.experts[static_cast<std::size_t>(e)];
      by_name[expert_name("gate_up", e)] = {&expert.w_gate_up_GD, whole};
      by_name[expert_name("down", e)] = {&expert.w_down_DF, whole};
    }
    by_name["scores"] = {&scores_TK_, [this] { return loss_of_scores(one_, scores_TK_); }};
    by_name["logits"] = {&logits_TE_, [this] {
                           return loss_of_scores(one_, scores_from_logits(logits_TE_, one_.ids_TK, one_.spec));
                         }};
  }
  Variables(const Variables&) = delete;

  std::map<std::string, Variable> by_name;

 private:
  BackwardCase<double> one_;
  Matrix<double> logits_TE_;
  Matrix<double> scores_TK_;
};

TEST_P(BackwardVariant, EveryElementIsTheCentralDifferenceOfTheLoss) {
  auto one = backward_case<double>(tiny_problem(variant()));
  const NamedMatrices<double> gradients = gradients_of(one);
  const NaiveBackward naive = naive_backward(one, kDoubleRoundoff);
  Variables variables(one);
  ASSERT_EQ(variables.by_name.size(), gradients.size());
  for (const auto& [name, variable] : variables.by_name) {
    double worst_bound = 0;
    for (Dim i = 0; i < variable.matrix->size(); ++i) {
      double& element = variable.matrix->data()[i];
      const double centre = element;
      const auto slope = central_difference(
          [&](double delta) {
            element = centre + delta;
            return variable.loss();
          },
          naive.loss_bound);
      element = centre;
      const double bound = slope.bound + naive.gradients.at(name).bound.data()[i];
      EXPECT_LE(std::fabs(gradients.at(name).data()[i] - slope.value), bound) << name << " element " << i;
      worst_bound = std::max(worst_bound, bound);
    }
    const double largest = gradients.at(name).cwiseAbs().maxCoeff();
    if (largest > 0) {
      EXPECT_LT(worst_bound, 1e-4 * largest) << name << ": a bound that nothing exceeds";
    }
  }
}

// Multiples of 2^-8 below 1/2 in magnitude, without a pattern in row or column.
Matrix<double> direction(const Matrix<double>& like, std::uint64_t seed) {
  Matrix<double> v(like.rows(), like.cols());
  std::uint64_t state = seed;
  for (Dim i = 0; i < v.size(); ++i) {
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;  // Knuth's linear congruential generator
    v.data()[i] = (static_cast<double>(state >> 56) - 127.5) / 256;
  }
  return v;
}

// Moves all the named variables together; they must have the same loss.
void expect_dot_products_agree(const BackwardCase<double>& one, const std::vector<std::string>& names, std::uint64_t seed) {
  BackwardCase<double> copy = one;
  const NamedMatrices<double> gradients = gradients_of(copy);
  const NaiveBackward naive = naive_backward(one, kDoubleRoundoff);
  Variables variables(one);
  double dot = 0, magnitude = 0, bound = 0;
  std::map<std::string, std::pair<Matrix<double>, Matrix<double>>> moves;  // centre, direction
  for (const std::string& name : names) {
    const Matrix<double>& centre = *variables.by_name.at(name).matrix;
    moves[name] = {centre, direction(centre, seed)};
    dot += moves[name].second.cwiseProduct(gradients.at(name)).sum();
    magnitude += moves[name].second.cwiseProduct(gradients.at(name)).cwiseAbs().sum();
    bound += moves[name].second.cwiseAbs().cwiseProduct(naive.gradients.at(name).bound).sum();
  }
  const auto slope = central_difference(
      [&](double delta) {
        for (const auto& [name, move] : moves) *variables.by_name.at(name).matrix = move.first + delta * move.second;
        return variables.by_name.at(names.front()).loss();
      },
      naive.loss_bound);
  EXPECT_LE(std::fabs(dot - slope.value), slope.bound + kBothErr * bound) << names.front() << " seed " << seed;
  // The summands may cancel: it is to them that the bound must be small.
  EXPECT_LT(slope.bound, 1e-4 * magnitude) << names.front() << ": a bound that nothing exceeds";
}

// M17: <J v, w> = <v, J^T w>, where J v is a central difference of the forward with the routing frozen, and w is d_y.
TEST_P(BackwardVariant, M17ForwardAndBackwardAgreeInDotProducts) {
  const auto one = backward_case<double>(small_problem(variant()));
  std::vector<std::string> gate_ups, downs, all = {"x", "router"};
  for (Dim e = 0; e < one.spec.num_experts; ++e) {
    gate_ups.push_back(expert_name("gate_up", e));
    downs.push_back(expert_name("down", e));
  }
  all.insert(all.end(), gate_ups.begin(), gate_ups.end());
  all.insert(all.end(), downs.begin(), downs.end());
  for (const std::uint64_t seed : {1, 2, 3})
    for (const auto& names : {std::vector<std::string>{"x"}, {"router"}, {"scores"}, {"logits"}, gate_ups, downs, all})
      expect_dot_products_agree(one, names, seed);
}

TEST_P(BackwardVariant, AsksOnceForEachExpertWithTokensAndHandsOutEveryExpertInOrder) {
  model::Problem problem = small_problem(variant());
  problem.tokens_per_rank = {1};
  const inputs::Generator generator(problem);
  CountingWeights<double> weights(generator);
  auto one = backward_case<double>(problem);
  std::vector<Dim> handed_out, busy;
  const auto sink = [&](const ExpertGradient<double>& gradient) {
    handed_out.push_back(gradient.expert);
    if (!gradient.is_idle()) busy.push_back(gradient.expert);
  };
  const auto layer = MoeLayerBackward<double>(problem.model, weights, problem.score_position).backward(one.x_TD, one.ids_TK, one.d_y_TD, sink);
  EXPECT_THAT(handed_out, testing::ElementsAre(0, 1, 2, 3, 4, 5, 6));
  EXPECT_EQ(weights.asked, busy);
  EXPECT_EQ(busy.size(), 3U);
  EXPECT_TRUE(layer.d_x_TD == gradients_of(one).at("x"));  // streamed as from memory
}

TEST(MoeLayerBackward, TakesARankWithoutTokens) {
  model::Problem problem = small_problem();
  problem.tokens_per_rank = {0};
  auto one = backward_case<float>(problem);
  const auto gradients = gradients_of(one);
  EXPECT_EQ(gradients.at("x").rows(), 0);
  EXPECT_EQ(gradients.at("x").cols(), problem.model.d_model);
  EXPECT_TRUE(gradients.at("router").isZero(0));
  for (Dim e = 0; e < problem.model.num_experts; ++e) {
    EXPECT_TRUE(gradients.at(expert_name("gate_up", e)).isZero(0));
    EXPECT_TRUE(gradients.at(expert_name("down", e)).isZero(0));
  }
}

TEST(MoeLayerBackward, FollowsSomeoneElsesRouting) {
  auto one = backward_case<double>(small_problem());
  one.ids_TK(4, 0) = (one.ids_TK.row(4).maxCoeff() + 1) % one.spec.num_experts;
  expect_within(gradients_of(one), naive_backward(one, kDoubleRoundoff), kBothErr);
}

TEST(MoeLayerBackward, AddsUpAnExpertThatSitsInTwoSlotsOfAToken) {
  for (const RouterVariant& variant : layer_variants()) {
    auto one = backward_case<double>(small_problem(variant));
    one.ids_TK(4, 2) = one.ids_TK(4, 0);
    SCOPED_TRACE(variant.name);
    expect_within(gradients_of(one), naive_backward(one, kDoubleRoundoff), kBothErr);
  }
}

}  // namespace
}  // namespace moecheck::reference
