// An optimizer that shows only what it left: honest ones pass, and what is wrong with the others is named.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "harness/check/registry.h"
#include "reference/hidden_step.h"
#include "reference/step_stages.h"
#include "tests/unit/reference/own_step.h"

namespace moecheck::check {
namespace {

using base::DType;
using cases::OptimizerKind;
using own_step::Knobs;
using own_step::Misdeed;
using own_step::Training;
using record::CheckState;
using testing::HasSubstr;
using testing::StartsWith;

const std::vector<std::string> kParamsOnly = {"optim/param/"};
constexpr auto kSgd = OptimizerKind::kSgd, kAdamW = OptimizerKind::kAdamW;

CheckOutcome judged(const Training& training, std::size_t num_batches, std::string_view check = "step_parity") {
  trace::Expected expected;
  expected.ranks.resize(training.batches[num_batches - 1].ranks.size());
  const auto batches = std::span(training.batches).first(num_batches);
  reference::expect_step(training.one, batches, expected);
  reference::expect_hidden_step(training.one, batches, expected);
  return find_check(check)->run({.one = training.one, .expected = expected, .observed = batches.back(),
                                 .batch = static_cast<Dim>(num_batches) - 1, .earlier = batches.first(num_batches - 1)});
}

Training hidden(const Knobs& knobs, const std::vector<std::string>& shown = kParamsOnly) {
  Training training(knobs);
  training.show_only(shown);
  return training;
}

std::string messages(const CheckOutcome& outcome) {
  std::string all = outcome.note;
  for (const auto& finding : outcome.findings) all += "\n" + finding.stage + ": " + finding.message + " (" + finding.hypothesis + ")";
  return all;
}

std::string hypotheses(const CheckOutcome& outcome) {
  std::string all;
  for (const auto& finding : outcome.findings) all += finding.hypothesis + "\n";
  return all;
}

TEST(StepParity, PassesHonestStepsThatShowOnlyTheirParameters) {
  for (const auto optimizer : {kSgd, kAdamW})
    for (const DType dtype : {DType::kF32, DType::kBF16})
      for (const bool has_masters : {true, false}) {
        const Training training = hidden({.mesh = "dp=2,ep=2", .optimizer = optimizer, .dtype = dtype, .has_masters = has_masters});
        for (const std::size_t num_batches : {2U, 4U, 6U}) {
          const CheckOutcome outcome = judged(training, num_batches);
          EXPECT_EQ(outcome.state, CheckState::kPass) << messages(outcome);
          EXPECT_EQ(outcome.compared, 4 * (64 + (1536 + 768) / 2));
          EXPECT_EQ(judged(training, num_batches, "optimizer").state, CheckState::kUnobserved);
        }
        EXPECT_EQ(judged(training, 1).state, CheckState::kNotApplicable);
      }
}

TEST(StepParity, LeavesWhatTheStagesJudgeToThem) {
  const Training training(Knobs{});
  EXPECT_EQ(judged(training, 2).state, CheckState::kNotApplicable);
  EXPECT_EQ(judged(training, 2, "optimizer").state, CheckState::kPass) << messages(judged(training, 2, "optimizer"));
  // Of masters alone the copies are judged there, and how they came to be here.
  const Training masters = hidden({.dtype = DType::kBF16}, {"optim/master/", "optim/param/"});
  EXPECT_EQ(judged(masters, 4, "optimizer").state, CheckState::kPass);
  const CheckOutcome outcome = judged(masters, 4);
  EXPECT_EQ(outcome.state, CheckState::kPass) << messages(outcome);
  for (const record::StageCell& cell : outcome.stages) EXPECT_THAT(cell.stage, StartsWith("optim/master/"));
}

TEST(StepParity, NamesAGainOfTheUpdate) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const CheckOutcome outcome = judged(hidden({.dtype = dtype, .misdeed = Misdeed::kRateDoubled}), 2);
    EXPECT_EQ(outcome.state, CheckState::kFail);
    EXPECT_EQ(outcome.findings.size(), 6U) << messages(outcome);
    EXPECT_THAT(hypotheses(outcome), HasSubstr("the update is 2 times the expected value"));
  }
}

TEST(StepParity, NamesAWeightDecayThatIsMissing) {
  const CheckOutcome outcome = judged(hidden({.misdeed = Misdeed::kNoDecay}), 2);
  ASSERT_EQ(outcome.findings.size(), 6U) << messages(outcome);
  for (const record::Finding& finding : outcome.findings) EXPECT_EQ(finding.hypothesis, "the weight decay is missing");
}

TEST(StepParity, NamesTheExpertThatDidNotMove) {
  for (const DType dtype : {DType::kF32, DType::kBF16})
    for (const auto optimizer : {kSgd, kAdamW}) {
      const CheckOutcome outcome = judged(hidden({.optimizer = optimizer, .dtype = dtype, .misdeed = Misdeed::kExpertStill}), 4);
      ASSERT_EQ(outcome.findings.size(), 1U) << messages(outcome);
      EXPECT_EQ(outcome.findings[0].stage, "optim/param/experts/down_EDF");
      EXPECT_EQ(outcome.findings[0].tensor, "experts/down_EDF");
      EXPECT_EQ(outcome.findings[0].rank, 0);
      EXPECT_EQ(outcome.findings[0].expert, own_step::kStillExpert);
      EXPECT_EQ(outcome.findings[0].hypothesis, "the expert's part of experts/down_EDF did not move, though its update is not zero");
    }
}

TEST(StepParity, SaysWhatANormIsOf) {
  const CheckOutcome outcome = judged(hidden({.microbatches = 1, .misdeed = Misdeed::kOwnNorm}, {"optim/norm_1"}), 1);
  ASSERT_EQ(outcome.findings.size(), 2U) << messages(outcome);
  for (const record::Finding& finding : outcome.findings) EXPECT_EQ(finding.hypothesis, "the norm is that of the rank's own shards");
}

TEST(StepParity, SeesEveryFaultOfAHiddenStepThatIsAboveItsBounds) {
  using enum Misdeed;
  for (const auto& [dtype, has_masters] : {std::pair{DType::kF32, true}, {DType::kBF16, true}, {DType::kBF16, false}}) {
    for (const Misdeed misdeed : {kRateDoubled, kNoDecay, kNoClip, kOwnNorm, kExpertStill, kAveraged})
      EXPECT_EQ(judged(hidden({.optimizer = kSgd, .dtype = dtype, .has_masters = has_masters, .misdeed = misdeed}), 2).state,
                CheckState::kFail) << static_cast<int>(misdeed);
    for (const Misdeed misdeed : {kRateDoubled, kNoCorrection, kStepStuck, kExpertStill, kNoClip})
      EXPECT_EQ(judged(hidden({.dtype = dtype, .has_masters = has_masters, .misdeed = misdeed}), 4).state, CheckState::kFail)
          << static_cast<int>(misdeed);
    if (!has_masters) continue;   // these are below a rounding of the weight there
    for (const Misdeed misdeed : {kNoDecay, kBeta2, kOwnNorm})
      EXPECT_EQ(judged(hidden({.dtype = dtype, .has_masters = has_masters, .misdeed = misdeed}), 6).state, CheckState::kFail)
          << static_cast<int>(misdeed);
  }
}

TEST(StepParity, JudgesTheNextBatchsParametersIfTheStepShowsNothing) {
  EXPECT_EQ(judged(hidden({}, {}), 3).state, CheckState::kPass);
  const CheckOutcome outcome = judged(hidden({.misdeed = Misdeed::kRateDoubled}, {}), 3);
  ASSERT_EQ(outcome.findings.size(), 6U) << messages(outcome);
  EXPECT_THAT(outcome.findings[0].stage, StartsWith("param/"));
  EXPECT_THAT(hypotheses(outcome), HasSubstr("the update is 2 times the expected value"));
}

// Rank 0 keeps masters, rank 1 does not: no subject does both.
TEST(StepParity, AllowsOneParameterOneArithmetic) {
  Training training = hidden({.optimizer = kSgd, .dtype = DType::kBF16});
  const Training other = hidden({.optimizer = kSgd, .dtype = DType::kBF16, .has_masters = false});
  EXPECT_EQ(judged(training, 4).state, CheckState::kPass);
  const std::string tap = "optim/param/experts/gate_up_EGD";
  for (const std::size_t b : {1U, 3U}) training.batches[b].ranks[1].taps[tap] = other.batches[b].ranks[1].taps.at(tap);
  const CheckOutcome outcome = judged(training, 4);
  ASSERT_EQ(outcome.findings.size(), 1U) << messages(outcome);
  EXPECT_EQ(outcome.findings[0].stage, tap);
}

TEST(StepParity, IsUnobservedWithoutGradients) {
  Training training = hidden({});
  for (trace::RankTrace& rank : training.batches[0].ranks)
    std::erase_if(rank.taps, [](const auto& tap) { return tap.first.starts_with("grad/"); });
  const CheckOutcome outcome = judged(training, 2);
  EXPECT_EQ(outcome.state, CheckState::kUnobserved);
  EXPECT_THAT(outcome.note, HasSubstr("not shown"));
}

TEST(StepParity, SaysWhereItIsBlind) {
  Training training = hidden({.optimizer = kSgd, .dtype = DType::kBF16, .has_masters = false});
  EXPECT_THAT(judged(training, 2).note, HasSubstr("weights have an update below its bound"));
  // As slow as this nothing moves in bf16.
  training.one.training.learning_rate = 1e-9;
  for (const std::string& name : own_step::kNames)
    for (trace::RankTrace& rank : training.batches[1].ranks) rank.taps.at("optim/param/" + name) = rank.taps.at("param/" + name);
  EXPECT_EQ(judged(training, 2).state, CheckState::kUnobserved) << messages(judged(training, 2));
}

}  // namespace
}  // namespace moecheck::check
