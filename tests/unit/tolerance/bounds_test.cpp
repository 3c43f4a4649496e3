// The power of the bounds: honest rounding stays within them, faults do not.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <random>
#include <vector>

#include "harness/tolerance/bounds.h"

namespace moecheck::tolerance {
namespace {

using base::DType;

// A sum of products as a stage forms it, with the numbers that a subject would have stored.
struct Draw {
  std::vector<double> a;
  std::vector<double> b;
  double value = 0;
  double magnitude = 0;
};

Draw draw(std::uint64_t seed, int terms, DType dtype, double shift) {
  std::mt19937_64 engine(seed);
  std::normal_distribution<double> normal(shift, 1.0);
  Draw result;
  for (int i = 0; i < terms; ++i) {
    result.a.push_back(base::round_to(dtype, normal(engine)));
    result.b.push_back(base::round_to(dtype, normal(engine)));
    result.value += result.a.back() * result.b.back();
    result.magnitude += std::fabs(result.a.back() * result.b.back());
  }
  return result;
}

double store(DType dtype, double value) { return base::round_to(dtype, value); }
double fp32(double value) { return base::round_to(DType::kF32, value); }

double honest_matmul(const Draw& d, DType dtype) {
  double sum = 0;
  for (std::size_t i = 0; i < d.a.size(); ++i) sum = fp32(sum + fp32(d.a[i] * d.b[i]));
  return store(dtype, sum);
}

double honest_combine(const Draw& d, DType dtype) {
  double sum = 0;
  for (std::size_t i = 0; i < d.a.size(); ++i) sum = store(dtype, sum + store(dtype, d.a[i] * d.b[i]));
  return sum;
}

double honest_reduction(const Draw& d, DType dtype) {
  double sum = d.a[0];
  for (std::size_t i = 1; i < d.a.size(); ++i) sum = store(dtype, sum + d.a[i]);
  return sum;
}

double honest_activation(double gate, double up, DType dtype) {
  const double silu = store(dtype, fp32(gate / fp32(1 + fp32(std::exp(-gate)))));
  return store(dtype, fp32(silu * up));
}

double bound_of(Stage stage, DType dtype, const Draw& d) {
  return stage_bound({stage, dtype, d.value, d.magnitude, static_cast<std::int64_t>(d.a.size())});
}

constexpr int kSeeds = 2000;
constexpr int kTerms = 48;

// Of kSeeds elements, how many exceed the bound.
int num_over(Stage stage, DType dtype, int terms, double shift, const std::function<double(const Draw&)>& subject) {
  int over = 0;
  for (std::uint64_t seed = 0; seed < kSeeds; ++seed) {
    const Draw d = draw(seed, terms, dtype, shift);
    if (!within(std::fabs(subject(d) - d.value), bound_of(stage, dtype, d))) ++over;
  }
  return over;
}

class Dtypes : public testing::TestWithParam<DType> {
 protected:
  // A gain that has to be seen in this dtype.
  double gain() const { return GetParam() == DType::kBF16 ? 1.02 : 1.001; }
};
INSTANTIATE_TEST_SUITE_P(Both, Dtypes, testing::Values(DType::kF32, DType::kBF16), [](const auto& one) { return std::string(base::knob_name(one.param)); });

TEST_P(Dtypes, HonestMatmulNeverExceedsItsBound) {
  for (const double shift : {0.0, 2.0})
    EXPECT_EQ(num_over(Stage::kMatmul, GetParam(), kTerms, shift, [&](const Draw& d) { return honest_matmul(d, GetParam()); }), 0);
}

TEST_P(Dtypes, MatmulBoundRejectsAMissingTerm) {
  const auto without_last = [&](Draw d) {
    d.a.pop_back();
    d.b.pop_back();
    return honest_matmul(d, GetParam());
  };
  EXPECT_GT(num_over(Stage::kMatmul, GetParam(), kTerms, 0.0, without_last), kSeeds * 9 / 10);
}

TEST_P(Dtypes, MatmulBoundRejectsAGain) {
  EXPECT_GT(num_over(Stage::kMatmul, GetParam(), kTerms, 2.0, [&](const Draw& d) { return store(GetParam(), gain() * honest_matmul(d, GetParam())); }),
            kSeeds * 99 / 100);
}

TEST_P(Dtypes, HonestCombineNeverExceedsItsBound) {
  for (const double shift : {0.0, 2.0})
    EXPECT_EQ(num_over(Stage::kCombine, GetParam(), 3, shift, [&](const Draw& d) { return honest_combine(d, GetParam()); }), 0);
}

TEST_P(Dtypes, CombineBoundRejectsADroppedSummand) {
  const auto without_last = [&](Draw d) {
    d.a.pop_back();
    d.b.pop_back();
    return honest_combine(d, GetParam());
  };
  EXPECT_GT(num_over(Stage::kCombine, GetParam(), 3, 0.0, without_last), kSeeds * 9 / 10);
}

// The worst case of 3 slots accumulated in bf16 is 2.0 %: a gain of 1.02 hides in it, twice that does not.
TEST_P(Dtypes, CombineBoundRejectsAGain) {
  const double factor = GetParam() == DType::kBF16 ? 1.05 : gain();
  EXPECT_GT(num_over(Stage::kCombine, GetParam(), 3, 2.0, [&](const Draw& d) { return store(GetParam(), factor * honest_combine(d, GetParam())); }),
            kSeeds * 8 / 10);
}

double sum_of_a(Draw& d) {
  d.value = d.magnitude = 0;
  for (const double a : d.a) {
    d.value += a;
    d.magnitude += std::fabs(a);
  }
  return d.value;
}

TEST_P(Dtypes, HonestReductionNeverExceedsItsBoundAndALostRankDoes) {
  for (const int ranks : {2, 4, 8}) {
    int lost_over = 0;
    for (std::uint64_t seed = 0; seed < kSeeds; ++seed) {
      Draw d = draw(seed, ranks, GetParam(), 0.0);
      sum_of_a(d);
      const double bound = bound_of(Stage::kReduction, GetParam(), d);
      ASSERT_TRUE(within(std::fabs(honest_reduction(d, GetParam()) - d.value), bound)) << ranks << " ranks, seed " << seed;
      Draw lost = d;
      lost.a.pop_back();
      if (!within(std::fabs(honest_reduction(lost, GetParam()) - d.value), bound)) ++lost_over;
    }
    EXPECT_GT(lost_over, kSeeds * 85 / 100) << ranks;
  }
}

TEST_P(Dtypes, HonestActivationNeverExceedsItsBoundAndSwappedGateAndUpDo) {
  int swapped_over = 0, gain_over = 0;
  for (std::uint64_t seed = 0; seed < kSeeds; ++seed) {
    const Draw d = draw(seed, 1, GetParam(), 0.0);
    const double gate = d.a[0], up = d.b[0];
    const double want = gate / (1 + std::exp(-gate)) * up;
    const double bound = stage_bound({Stage::kActivation, GetParam(), want, std::fabs(want), 1});
    const double honest = honest_activation(gate, up, GetParam());
    ASSERT_TRUE(within(std::fabs(honest - want), bound)) << gate << " " << up;
    if (!within(std::fabs(honest_activation(up, gate, GetParam()) - want), bound)) ++swapped_over;
    if (!within(std::fabs(store(GetParam(), gain() * honest) - want), bound)) ++gain_over;
  }
  EXPECT_GT(swapped_over, kSeeds * 95 / 100);
  EXPECT_GT(gain_over, kSeeds * 95 / 100);
}

TEST(ActivationBound, AcceptsAZeroWhereTheExponentialOverflows) {
  const double want = -89.0 / (1 + std::exp(89.0)) * 4.0;
  EXPECT_TRUE(within(std::fabs(0 - want), stage_bound({Stage::kActivation, DType::kF32, want, std::fabs(want), 1})));
}

// p of `experts` logits, renormalised over the first three; fp32 as a subject computes it, or double.
std::vector<double> scores(const std::vector<double>& logits, const std::function<double(double)>& round) {
  double top = logits[0], all = 0, chosen = 0;
  for (const double l : logits) top = std::fmax(top, l);
  std::vector<double> p;
  for (const double l : logits) {
    p.push_back(round(std::exp(round(l - top))));
    all = round(all + p.back());
  }
  for (double& v : p) v = round(v / all);
  for (int k = 0; k < 3; ++k) chosen = round(chosen + p[static_cast<std::size_t>(k)]);
  for (double& v : p) v = round(v / chosen);
  p.resize(3);
  return p;
}

TEST_P(Dtypes, HonestScoresNeverExceedTheirBoundAndAGainDoes) {
  int over = 0;
  for (std::uint64_t seed = 0; seed < kSeeds; ++seed) {
    const auto logits = draw(seed, 16, GetParam(), 0.0).a;
    const auto want = scores(logits, [](double v) { return v; });
    const auto honest = scores(logits, fp32);
    for (std::size_t k = 0; k < 3; ++k) {
      const double bound = stage_bound({Stage::kScores, GetParam(), want[k], want[k], 16});
      ASSERT_TRUE(within(std::fabs(store(GetParam(), honest[k]) - want[k]), bound)) << seed;
      if (!within(std::fabs(store(GetParam(), gain() * honest[k]) - want[k]), bound)) ++over;
    }
  }
  EXPECT_EQ(over, 3 * kSeeds);
}

TEST(Bounds, InputAndTheOutputOfOneRankMustBeExact) {
  EXPECT_EQ(stage_bound({Stage::kExact, DType::kBF16, 3.0, 3.0, 1}), 0);
  EXPECT_EQ(stage_bound({Stage::kReduction, DType::kBF16, 3.0, 3.0, 1}), 0);
  EXPECT_GT(stage_bound({Stage::kReduction, DType::kBF16, 3.0, 3.0, 2}), 0);
}

TEST(Bounds, NaNIsWithinNoBoundAndNothingIsWithinANaN) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_FALSE(within(nan, 1.0));
  EXPECT_FALSE(within(nan, std::numeric_limits<double>::infinity()));
  EXPECT_FALSE(within(0.0, nan));
  EXPECT_FALSE(within(std::numeric_limits<double>::infinity(), 1e300));
  EXPECT_TRUE(std::isnan(used(nan, 1.0)));
  EXPECT_TRUE(std::isinf(used(1e-300, 0.0)));
  EXPECT_EQ(used(0.0, 0.0), 0);
}

TEST_P(Dtypes, DispatchedRowsAreCopiesOrOneProductRoundedOnce) {
  EXPECT_EQ(stage_bound({Stage::kDispatch, GetParam(), 3.0, 3.0, 0}), 0);
  int gain_over = 0, twice_over = 0;
  for (std::uint64_t seed = 0; seed < kSeeds; ++seed) {
    const Draw d = draw(seed, 1, GetParam(), 0.0);
    const double bound = stage_bound({Stage::kDispatch, GetParam(), d.value, d.magnitude, 1});
    const double honest = store(GetParam(), d.value);
    ASSERT_TRUE(within(std::fabs(honest - d.value), bound)) << seed;
    if (!within(std::fabs(store(GetParam(), gain() * honest) - d.value), bound)) ++gain_over;
    if (!within(std::fabs(d.a[0] - d.value), bound)) ++twice_over;   // the score was forgotten
  }
  EXPECT_GT(gain_over, kSeeds * 95 / 100);
  EXPECT_GT(twice_over, kSeeds * 99 / 100);
}

// b1 m + (1 - b1) g in fp32, as a formula and as an interpolation.
TEST(OptimizerBound, HoldsForMomentsInFp32AndRejectsAnotherDecayAndTheCasesDtype) {
  int other_decay_over = 0, bf16_over = 0;
  for (std::uint64_t seed = 0; seed < kSeeds; ++seed) {
    const Draw d = draw(seed, 1, DType::kF32, 0.0);
    const double m = d.a[0], g = d.b[0];
    const double want = 0.9 * m + (1 - 0.9) * g;
    const double bound = stage_bound({Stage::kOptimizer, DType::kBF16, want, std::fabs(0.9 * m) + std::fabs(0.1 * g), 8});
    const double formula = fp32(fp32(fp32(0.9) * m) + fp32(fp32(1 - 0.9) * g));
    const double interpolated = fp32(m + fp32(fp32(1 - 0.9) * fp32(g - m)));
    ASSERT_TRUE(within(std::fabs(formula - want), bound)) << seed;
    ASSERT_TRUE(within(std::fabs(interpolated - want), bound)) << seed;
    if (!within(std::fabs(0.9001 * m + 0.0999 * g - want), bound)) ++other_decay_over;
    if (!within(std::fabs(store(DType::kBF16, formula) - want), bound)) ++bf16_over;
  }
  EXPECT_GT(other_decay_over, kSeeds * 95 / 100);
  EXPECT_GT(bf16_over, kSeeds * 95 / 100);
}

TEST(OptimizerBound, OfAnExactValueIsZero) { EXPECT_EQ(stage_bound({Stage::kOptimizer, DType::kBF16, 1.0, 1.0, 0}), 0); }

TEST(NormBound, HoldsForRunningSumsInFp32AndRejectsAReplicaThatIsCountedTwice) {
  constexpr int kSquares = 400, kReplicated = 40;
  int twice_over = 0;
  for (std::uint64_t seed = 0; seed < kSeeds; ++seed) {
    const Draw d = draw(seed, kSquares, DType::kF32, 0.0);
    double squares = 0, honest = 0, twice = 0;
    for (int i = 0; i < kSquares; ++i) {
      const double a = d.a[static_cast<std::size_t>(i)];
      squares += a * a;
      honest = fp32(honest + fp32(a * a));
      if (i < kReplicated) twice += a * a;
    }
    const double want = std::sqrt(squares);
    const double bound = stage_bound({Stage::kNorm, DType::kBF16, want, want, kSquares});
    ASSERT_TRUE(within(std::fabs(fp32(std::sqrt(honest)) - want), bound)) << seed;
    if (!within(std::fabs(std::sqrt(squares + twice) - want), bound)) ++twice_over;
  }
  EXPECT_EQ(twice_over, kSeeds);
}

TEST(NormBound, StaysBelowATenthForAnyNumberOfElementsAndAllowsForSquaresThatVanish) {
  EXPECT_LT(stage_bound({Stage::kNorm, DType::kF32, 1.0, 1.0, std::int64_t{1} << 34}), 0.1);
  const double tiny = 1e-30;   // its square is no fp32 number
  EXPECT_TRUE(within(tiny, stage_bound({Stage::kNorm, DType::kF32, tiny, tiny, 1})));
}

TEST(Bounds, EveryComputedTapHasAStageAndIntegersHaveNone) {
  for (const char* tap : {"input/x_TD", "router/logits_TE", "router/scores_TK", "experts/gate_up_RG", "experts/act_RF", "experts/out_RD",
                          "combine/partial_TD", "output/y_TD", "experts/in_RD", "grad/in_RD", "optim/norm_1", "optim/clip_1",
                          "optim/grad/router/w_ED", "optim/m/experts/gate_up_EGD", "optim/v/experts/down_EDF", "optim/master/router/w_ED",
                          "optim/param/experts/down_EDF"})
    EXPECT_TRUE(stage_of_tap(tap).has_value()) << tap;
  for (const char* tap : {"router/ids_TK", "dispatch/rows_R3", "dispatch/tokens_S", "combine/rows_N3", "optim/steps_3", "param/router/w_ED", ""}) EXPECT_FALSE(stage_of_tap(tap).has_value()) << tap;
}

TEST(Bounds, GammaGrowsWithTermsAndExceedsTheirSum) {
  EXPECT_GT(gamma(48, 0x1p-24), 48 * 0x1p-24);
  EXPECT_LT(gamma(48, 0x1p-24), 48.001 * 0x1p-24);
  EXPECT_EQ(gamma(0, 0x1p-8), 0);
}

}  // namespace
}  // namespace moecheck::tolerance
