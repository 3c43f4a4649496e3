// Steps that show only what they left, taken by honest and by faulty optimizers.
#include "reference/hidden_step.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <set>

#include "reference/step_stages.h"
#include "tests/unit/reference/own_step.h"

namespace moecheck::reference {
namespace {

using base::DType;
using cases::OptimizerKind;
using model::Dim;
using own_step::Knobs;
using own_step::Misdeed;
using own_step::Training;
using trace::Expected;
using trace::ExpectedRank;
using trace::WholeTap;
using Taps = std::map<std::string, WholeTap, std::less<>>;

constexpr auto kSgd = OptimizerKind::kSgd, kAdamW = OptimizerKind::kAdamW;
const std::vector<std::string> kParamsOnly = {"optim/param/"};

Expected expected_of(const Training& training, std::size_t num_batches) {
  Expected expected;
  expected.ranks.resize(training.batches[num_batches - 1].ranks.size());
  const auto batches = std::span(training.batches).first(num_batches);
  expect_step(training.one, batches, expected);
  expect_hidden_step(training.one, batches, expected);
  return expected;
}

double used_by(const WholeTap& tap, const base::HostTensor& got) {
  EXPECT_EQ(tap.value.shape(), got.shape());
  double worst = 0;
  for (Dim i = 0; i < got.numel(); ++i) {
    const double error = std::fabs(tap.value.at(i) - got.at(i));
    if (error == 0 || std::isnan(tap.value.at(i))) continue;
    worst = std::max(worst, tap.bound.at(i) > 0 ? error / tap.bound.at(i) : std::numeric_limits<double>::infinity());
  }
  return worst;
}

double worst_used(const Training& training, const Expected& expected, std::size_t num_batches, Taps ExpectedRank::* of) {
  double worst = 0;
  for (std::size_t r = 0; r < expected.ranks.size(); ++r)
    for (const auto& [name, tap] : expected.ranks[r].*of)
      worst = std::max(worst, used_by(tap, *training.batches[num_batches - 1].ranks[r].tensor(name)));
  return worst;
}

// With masters or without, whichever fits better.
double least_used(const Training& training, Dim step) {
  const auto num_batches = static_cast<std::size_t>((step + 1) * training.one.training.microbatches);
  const Expected expected = expected_of(training, num_batches);
  EXPECT_FALSE(expected.ranks[0].whole.empty());
  const double by_masters = worst_used(training, expected, num_batches, &ExpectedRank::whole);
  if (expected.ranks[0].in_dtype.empty()) return by_masters;
  return std::min(by_masters, worst_used(training, expected, num_batches, &ExpectedRank::in_dtype));
}

std::string name_of(const Knobs& knobs) {
  const std::string masters = knobs.dtype == DType::kF32 ? "" : knobs.has_masters ? "_with_masters" : "_alone";
  return std::string(knobs.optimizer == kSgd ? "sgd_" : "adamw_") + (knobs.dtype == DType::kF32 ? "fp32" : "bf16") + masters;
}

const std::vector<std::vector<std::string>> kShown = {
    kParamsOnly, {"optim/param/", "optim/master/"}, {"optim/param/", "optim/m/", "optim/v/"}, {"optim/norm", "optim/clip"}};

class HonestStep : public testing::TestWithParam<Knobs> {};
INSTANTIATE_TEST_SUITE_P(Optimizers, HonestStep,
                         testing::Values(Knobs{.optimizer = kSgd}, Knobs{.optimizer = kAdamW},
                                         Knobs{.optimizer = kSgd, .dtype = DType::kBF16},
                                         Knobs{.optimizer = kAdamW, .dtype = DType::kBF16},
                                         Knobs{.optimizer = kSgd, .dtype = DType::kBF16, .has_masters = false},
                                         Knobs{.optimizer = kAdamW, .dtype = DType::kBF16, .has_masters = false}),
                         [](const auto& knobs) { return name_of(knobs.param); });

// The numbers that stand in harness/tolerance/step.h are these; in bf16 a weight at either end of what it may be uses 1.
TEST_P(HonestStep, IsWithinItsBoundsOnEveryLayoutWhateverIsShown) {
  for (const char* mesh : {"ep=2", "dp=2,ep=2", "fsdp=2,ep=2", "tp=2"})
    for (const std::vector<std::string>& shown : kShown) {
      Knobs knobs = GetParam();
      knobs.mesh = mesh;
      Training training(knobs);
      training.show_only(shown);
      double worst = 0;
      for (Dim step = 0; step < knobs.steps; ++step) worst = std::max(worst, least_used(training, step));
      const bool is_one_rounding = knobs.optimizer == kSgd || knobs.dtype == DType::kBF16;   // which takes most of the bound
      EXPECT_LE(worst, is_one_rounding ? 1 : 0.5) << mesh << " showing " << shown.back();
          }
}

TEST_P(HonestStep, IsLeftToTheStagesWhereItsInputsAreShown) {
  const Training training(GetParam());
  if (!GetParam().has_masters) return;   // those are not shown then
  const Expected expected = expected_of(training, 2);
  for (const ExpectedRank& rank : expected.ranks) {
    EXPECT_TRUE(rank.whole.empty());
    EXPECT_TRUE(rank.in_dtype.empty());
  }
}

struct Fault {
  Misdeed misdeed;
  Knobs knobs;
  Dim seen_at;   // the first step at which it has to be seen, if only parameters are shown; -1: it is below the bounds
};

constexpr Knobs kSgdFp32{.optimizer = kSgd}, kAdamWFp32{.optimizer = kAdamW};
constexpr Knobs kSgdBf16{.optimizer = kSgd, .dtype = DType::kBF16}, kAdamWBf16{.optimizer = kAdamW, .dtype = DType::kBF16};
constexpr Knobs kSgdAlone{.optimizer = kSgd, .dtype = DType::kBF16, .has_masters = false};
constexpr Knobs kAdamWAlone{.optimizer = kAdamW, .dtype = DType::kBF16, .has_masters = false};

// A factor that all gradients have in common cancels in adamw, and beta2 does in its first step.
std::vector<Fault> faults() {
  using enum Misdeed;
  std::vector<Fault> all;
  for (const Knobs& sgd : {kSgdFp32, kSgdBf16, kSgdAlone})
    for (const Misdeed misdeed : {kRateDoubled, kNoDecay, kNoClip, kOwnNorm, kExpertStill, kAveraged}) all.push_back({misdeed, sgd, 0});
  for (const Knobs& adamw : {kAdamWFp32, kAdamWBf16, kAdamWAlone}) {
    for (const Misdeed misdeed : {kRateDoubled, kNoCorrection, kExpertStill}) all.push_back({misdeed, adamw, 0});
    for (const Misdeed misdeed : {kNoClip, kStepStuck}) all.push_back({misdeed, adamw, 1});
  }
  all.insert(all.end(), {{kNoDecay, kAdamWFp32, 0}, {kOwnNorm, kAdamWFp32, 1}, {kBeta2, kAdamWFp32, 1}});
  all.insert(all.end(), {{kNoDecay, kAdamWBf16, 1}, {kOwnNorm, kAdamWBf16, 2}, {kBeta2, kAdamWBf16, 2}, {kAveraged, kAdamWBf16, -1}});
  for (const Misdeed misdeed : {kNoDecay, kOwnNorm, kBeta2, kAveraged}) all.push_back({misdeed, kAdamWAlone, -1});
  return all;
}

std::string fault_name(const testing::TestParamInfo<Fault>& fault) {
  const std::array<const char*, 10> names = {"sound",        "rate_doubled",       "no_decay",         "no_clip",
                                             "norm_of_own_shards", "beta2",        "no_bias_correction", "step_count_stuck",
                                             "expert_still", "microbatches_averaged"};
  return std::string(names.at(static_cast<std::size_t>(fault.param.misdeed))) + "_" + name_of(fault.param.knobs);
}

class FaultyStep : public testing::TestWithParam<Fault> {};
INSTANTIATE_TEST_SUITE_P(Faults, FaultyStep, testing::ValuesIn(faults()), fault_name);

TEST_P(FaultyStep, IsOverItsBoundsWhereTheyAllowItToBeSeen) {
  Knobs knobs = GetParam().knobs;
  knobs.misdeed = GetParam().misdeed;
  knobs.has_tiny_gradients = false;
  Training training(knobs);
  training.show_only(kParamsOnly);
  if (GetParam().seen_at >= 0) {
    EXPECT_GT(least_used(training, GetParam().seen_at), 1.5);
  } else {
    for (Dim step = 0; step < knobs.steps; ++step) EXPECT_LE(least_used(training, step), 1) << "seen at step " << step;
  }
}

TEST(HiddenMoments, ShowAWrongBetaAtOnce) {
  for (const Knobs& base : {kAdamWFp32, kAdamWBf16, kAdamWAlone}) {
    Knobs knobs = base;
    knobs.misdeed = Misdeed::kBeta2;
    Training training(knobs);
    training.show_only({"optim/v/", "optim/param/"});
    EXPECT_GT(least_used(training, 0), 10) << name_of(knobs);
  }
}

TEST(HiddenNorm, OfOneRankIsFarFromTheGlobalOne) {
  for (const Knobs& base : {kAdamWFp32, kSgdBf16, kSgdAlone}) {
    Knobs knobs = base;
    knobs.misdeed = Misdeed::kOwnNorm;
    Training training(knobs);
    training.show_only({"optim/norm_1"});
    EXPECT_GT(least_used(training, 0), 3) << name_of(knobs);
  }
}

TEST(HiddenStep, HasTwoArithmeticsOnlyWhereMastersMayBeHidden) {
  Training fp32(kAdamWFp32), shown(kAdamWBf16), hidden(kAdamWBf16);
  for (Training* training : {&fp32, &hidden}) training->show_only(kParamsOnly);
  shown.show_only({"optim/param/", "optim/master/"});
  EXPECT_TRUE(expected_of(fp32, 2).ranks[0].in_dtype.empty());
  EXPECT_TRUE(expected_of(shown, 2).ranks[0].in_dtype.empty());
  EXPECT_THAT(expected_of(hidden, 2).ranks[1].in_dtype, testing::SizeIs(3));
  EXPECT_THAT(expected_of(hidden, 2).ranks[1].whole, testing::SizeIs(3));
}

TEST(HiddenStep, IsJudgedByTheParametersOfTheNextBatchIfItShowsNone) {
  Training training(kAdamWFp32);
  training.show_only({});
  EXPECT_TRUE(expected_of(training, 2).ranks[0].whole.empty());
  const Expected expected = expected_of(training, 3);
  EXPECT_THAT(expected.ranks[0].whole, testing::SizeIs(3));
  EXPECT_LE(worst_used(training, expected, 3, &ExpectedRank::whole), 1);
  EXPECT_TRUE(expected_of(training, 4).ranks[0].whole.empty()) << "the second microbatch begins with the same parameters";
}

TEST(HiddenStep, IsUnknownWithoutAGradientThatTheNormIsOf) {
  Training training(kSgdFp32);
  training.show_only(kParamsOnly);
  training.batches[1].ranks[1].taps.erase("grad/experts/down_EDF");
  EXPECT_TRUE(expected_of(training, 2).ranks[0].whole.empty());
  training.one.training.clip_norm = 0;
  EXPECT_THAT(expected_of(training, 2).ranks[0].whole, testing::SizeIs(3));
  EXPECT_THAT(expected_of(training, 2).ranks[1].whole, testing::SizeIs(2));
}

// The life before showed its last step; of the one that goes on the load does.
TEST(HiddenStep, GoesOnFromTheStateThatALifeWasResumedWith) {
  for (const Knobs& knobs : {kAdamWFp32, kAdamWBf16}) {
    Training training(knobs);
    training.one.first_batch = 2;
    training.batches[0] = {};
    for (const std::size_t b : {3U, 5U})
      for (trace::RankTrace& rank : training.batches[b].ranks)
        std::erase_if(rank.taps, [](const auto& tap) { return tap.first.starts_with("optim/") && !tap.first.starts_with("optim/param/"); });
    for (const Dim step : {1, 2}) EXPECT_LE(least_used(training, step), 1) << name_of(knobs);
    for (trace::RankTrace& rank : training.batches[1].ranks) rank.taps.erase("optim/v/router/w_ED");
    EXPECT_THAT(expected_of(training, 4).ranks[0].whole, testing::SizeIs(2)) << "moments that nobody shows are unknown";
  }
}

TEST(HiddenStep, KnowsNoStepToBeLongerThanItsGradientsAllow) {
  Training training(kAdamWAlone);
  training.show_only(kParamsOnly);
  const Expected expected = expected_of(training, 6);
  const WholeTap& tap = expected.ranks[0].in_dtype.at("optim/param/experts/gate_up_EGD");
  const base::HostTensor& before = *training.batches[5].ranks[0].tensor("param/experts/gate_up_EGD");
  const double rate = training.one.learning_rate_of(2);
  for (Dim i = 0; i < tap.value.numel(); ++i) {
    ASSERT_FALSE(std::isnan(tap.value.at(i)));
    EXPECT_LE(tap.bound.at(i), 1.5 * rate + 0x1p-7 * std::fabs(before.at(i))) << i;
  }
}

}  // namespace
}  // namespace moecheck::reference
