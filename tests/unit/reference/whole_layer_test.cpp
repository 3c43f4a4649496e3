// The layer as a whole: its values are those of the single-process layer on every layout, and only what has no stage of its own is
// there.
#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "harness/trace/layout.h"
#include "reference/backward.h"
#include "reference/grad_stages.h"
#include "reference/tracked.h"
#include "tests/unit/reference/observed_fixture.h"

namespace moecheck::reference {
namespace {

using base::HostTensor;
using trace::Trace;

// As a framework shows it: tokens, router and output.
Trace without_inside(Trace observed) {
  for (trace::RankTrace& rank : observed.ranks)
    std::erase_if(rank.taps, [](const auto& tap) {
      return tap.first.starts_with("dispatch/") || tap.first.starts_with("experts/") || tap.first.starts_with("combine/");
    });
  return observed;
}

void show_gradients(const cases::Case& one, Trace& observed) {
  const std::vector<std::string> taps = {"grad/scores_TK", "grad/x_TD", "grad/router/w_ED", "grad/experts/gate_up_EGD", "grad/experts/down_EDF"};
  for (trace::RankTrace& rank : observed.ranks)
    for (const std::string& tap : taps)
      rank.taps[tap] = whole({base::DType::kF64, *trace::declared_shape(one.problem, tap, rank.rank, {})});
}

double largest_difference(const HostTensor& a, const HostTensor& b) {
  EXPECT_EQ(a.shape(), b.shape());
  double largest = 0;
  for (Dim i = 0; i < a.numel(); ++i) largest = std::max(largest, std::fabs(a.at(i) - b.at(i)));
  return largest;
}

// Far above rounding in double, far below any bound of fp32.
constexpr double kDoubleNoise = 1e-11;

class WholeLayerOn : public testing::TestWithParam<Layout> {};

TEST_P(WholeLayerOn, ExpectsTheOutputThatTheStagesMake) {
  const Trace observed = sound_trace(GetParam().one, GetParam().exchange);
  const trace::Expected expected = evaluate_batch(GetParam().one, without_inside(observed));
  for (std::size_t r = 0; r < observed.ranks.size(); ++r) {
    const auto& ranked = expected.ranks[r];
    EXPECT_FALSE(ranked.taps.contains("output/y_TD"));
    ASSERT_EQ(ranked.whole.size(), 1U);
    EXPECT_LT(largest_difference(ranked.whole.at("output/y_TD").value, *observed.ranks[r].tensor("output/y_TD")), kDoubleNoise);
  }
}

TEST_P(WholeLayerOn, ExpectsTheGradientsOfTheSingleProcessLayer) {
  const cases::Case& one = GetParam().one;
  const model::Problem& problem = one.problem;
  Trace observed = without_inside(sound_trace(one, GetParam().exchange));
  show_gradients(one, observed);
  const trace::Expected expected = evaluate_batch(one, observed);
  const inputs::Generator generator(problem);
  StoredWeights<double> weights(problem);
  const MoeLayerBackward<double> layer(problem.model, weights, problem.score_position);
  HostTensor d_gate_up(base::DType::kF64, trace::global_param_shape(problem.model, "param/experts/gate_up_EGD"));
  HostTensor d_down(base::DType::kF64, trace::global_param_shape(problem.model, "param/experts/down_EDF"));
  const auto add_at = [](HostTensor& sum, Dim first, const Matrix<double>& part) {
    for (Dim i = 0; i < part.size(); ++i) sum.set(first + i, sum.at(first + i) + part.data()[i]);
  };
  for (const Dim shard : problem.mesh.group(0, problem.token_dims_text())) {
    if (problem.num_tokens(shard) == 0) continue;
    const auto& seen = observed.ranks[static_cast<std::size_t>(shard)];
    const auto sink = [&](const ExpertGradient<double>& e) {
      add_at(d_gate_up, e.expert * e.d_gate_up_GD.size(), e.d_gate_up_GD);
      add_at(d_down, e.expert * e.d_down_DF.size(), e.d_down_DF);
    };
    const Matrix<double> grad_y_TD = generated_output_grad(generator, 0).middleRows(problem.first_token(shard), problem.num_tokens(shard));
    const auto gradient =
        layer.backward(matrix_of<double>(*seen.tensor("input/x_TD")), ids_of(*seen.tensor("router/ids_TK")), grad_y_TD, sink);
    const auto& whole = expected.ranks[static_cast<std::size_t>(shard)].whole;
    EXPECT_LT(largest_difference(whole.at("grad/scores_TK").value, tensor_of(gradient.d_scores_TK)), kDoubleNoise);
  }
  for (std::size_t r = 0; r < observed.ranks.size(); ++r) {
    const auto rank = static_cast<Dim>(r);
    const auto& whole = expected.ranks[r].whole;
    for (const auto& [tap, global] : {std::pair{"grad/experts/gate_up_EGD", d_gate_up}, std::pair{"grad/experts/down_EDF", d_down}})
      EXPECT_LT(largest_difference(whole.at(tap).value, local_shard(problem, tap, rank, global)), kDoubleNoise) << tap;
  }
}

TEST_P(WholeLayerOn, LeavesAloneWhatHasAStage) {
  const trace::Expected expected = evaluate_batch(GetParam().one, sound_trace(GetParam().one, GetParam().exchange));
  for (const trace::ExpectedRank& rank : expected.ranks) EXPECT_TRUE(rank.whole.empty());
}

INSTANTIATE_TEST_SUITE_P(Layouts, WholeLayerOn, testing::ValuesIn(layouts()), [](const auto& param) { return param.param.name; });

TEST(WholeLayer, GoesOnFromTheRecordedGradientOfTheScores) {
  const cases::Case one = small_case("ep=2", model::Values::kNormal);
  Trace observed = without_inside(sound_trace(one));
  show_gradients(one, observed);
  const auto d_router_of = [&] { return evaluate_batch(one, observed).ranks[0].whole.at("grad/router/w_ED").value; };
  const HostTensor by_zeros = d_router_of();
  EXPECT_EQ(largest_difference(by_zeros, HostTensor(base::DType::kF64, by_zeros.shape())), 0);
  for (trace::RankTrace& rank : observed.ranks) rank.taps.erase("grad/scores_TK");
  EXPECT_GT(largest_difference(d_router_of(), by_zeros), 1e-3);
}

TEST(WholeLayer, SaysNothingAboutATokenThatItsRanksShowDifferently) {
  const cases::Case one = small_case("ep=2", model::Values::kNormal);
  Trace observed = without_inside(perturbed(sound_trace(one), 1, "router/scores_TK"));
  const trace::Expected expected = evaluate_batch(one, observed);
  for (const trace::ExpectedRank& rank : expected.ranks) {
    const auto& is_comparable = rank.whole.at("output/y_TD").is_comparable;
    EXPECT_EQ(is_comparable[0], 0);
    EXPECT_EQ(std::ranges::count(is_comparable, std::uint8_t{0}), 1);
  }
}

TEST(Tracked, StretchesByTheLargestSingularValueAndLittleMore) {
  Matrix<double> a = Matrix<double>::Zero(30, 40);
  for (Dim i = 0; i < 30; ++i) a(i, (i + 3) % 40) = i == 7 ? 5 : 1.0 / static_cast<double>(i + 1);
  EXPECT_GE(largest_stretch(a), 5 * (1 - 1e-12));
  EXPECT_LT(largest_stretch(a), 5.01);
  EXPECT_EQ(largest_stretch(Matrix<double>::Zero(3, 4)), 0);
  EXPECT_LT(largest_stretch(Matrix<double>::Identity(300, 300)), 1.2);
}

TEST(Tracked, BoundsARowsErrorByItsNormWhereTheElementsCannot) {
  Tracked a = tracked(Matrix<double>::Ones(1, 200), Matrix<double>::Constant(1, 200, 1e-3));
  const Tracked w = exactly(Matrix<double>::Identity(200, 200) - Matrix<double>::Constant(200, 200, 1.0 / 200));
  const TrackedSum sum = products(a, w);
  EXPECT_LT(sum.moved(0), 1.3 * a.norm(0));
  EXPECT_GT((sum.largest - sum.plain).row(0).norm(), 1.9 * a.norm(0));
}

}  // namespace
}  // namespace moecheck::reference
