// Runs of a subject that does not repeat itself bit for bit.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "harness/base/philox.h"
#include "harness/check/run_noise.h"
#include "simulated_lives.h"
#include "simulated_run.h"

namespace moecheck::check {
namespace {

using base::HostTensor;
using record::CheckState;
using record::FindingClass;
using testing::HasSubstr;

constexpr std::size_t kMain = 0, kRestart = 1, kControl = 2;   // lives; three controls
constexpr std::size_t kBatch = 3;                              // the last: it ends step 2
const std::string kGradient = "optim/grad/experts/down_EDF";
const std::string kNorm = "optim/norm_1";

// In (-1, 1).
double noise(std::size_t life, std::size_t rank, Dim i) {
  const std::string key = fmt::format("noise/{}/{}/{}", life, rank, i);
  return static_cast<double>(base::fnv1a(key.data(), key.size()) >> 32) / 0x1p31 - 1;
}

class RunNoise : public testing::Test {
 protected:
  static cases::Case of() {
    cases::Case one = case_with_lives("ep=2", {"ep=2"});
    one.checkpointing.controls = 3;
    return one;
  }

  std::map<std::string, trace::Tapped, std::less<>>& taps(std::size_t life, std::size_t rank) { return run_.lives.at(life).batches.at(kBatch).ranks.at(rank).taps; }

  // Gradients of each life are off by about 2^-20 of their own, their norm is the same.
  void show_gradients() {
    for (std::size_t life = 0; life < run_.lives.size(); ++life)
      for (std::size_t r = 0; r < 2; ++r) {
        HostTensor gradient(base::DType::kF32, {2, 6, 4});
        for (Dim i = 0; i < gradient.numel(); ++i) gradient.set(i, 1 + 0x1p-20 * noise(life, r, i));
        taps(life, r)[kGradient] = {gradient, {}, {4, 6, 4}};
        taps(life, r)[kNorm] = {base::tensor_from_doubles(base::DType::kF32, {1}, std::vector<double>{8}), {}, {1}};
      }
  }
  CheckOutcome resumed() const { return run_.check("resume_determinism"); }

  SimulatedLives run_{of()};
};

TEST_F(RunNoise, IsOneFindingForAKindOfTaps) {
  show_gradients();
  const CheckOutcome outcome = resumed();
  EXPECT_EQ(outcome.state, CheckState::kPass);
  ASSERT_EQ(outcome.findings.size(), 1U) << messages(outcome);
  EXPECT_EQ(outcome.findings[0].cls, FindingClass::kNoise);
  EXPECT_EQ(outcome.findings[0].stage, kGradient);
  EXPECT_EQ(outcome.findings[0].step, 2);
  EXPECT_THAT(outcome.findings[0].message, HasSubstr("optim/grad is "));
  EXPECT_LT(*outcome.findings[0].used, 2);
}

TEST_F(RunNoise, IsNoBugInTheLastBitOfANormThatTheControlsAgreeOnByChance) {
  show_gradients();
  for (std::size_t r = 0; r < 2; ++r) taps(kRestart, r)[kNorm].tensor.set(0, std::nextafter(8.0F, 9.0F));
  for (const record::Finding& finding : resumed().findings) EXPECT_EQ(finding.cls, FindingClass::kNoise) << finding.message;
  taps(kRestart, 1)[kNorm].tensor.set(0, 8.25);
  const record::Finding bug = first_failure(resumed());
  EXPECT_EQ(bug.stage, kNorm);
  EXPECT_EQ(bug.rank, 1);
  EXPECT_EQ(bug.got, 8.25);
}

TEST_F(RunNoise, IsNoBugInALastBitWhereOnlyOtherKindsAreNoisy) {
  show_gradients();
  HostTensor& moment = taps(kRestart, 0).at("optim/m/experts/down_EDF").tensor;
  moment.set(3, std::nextafter(static_cast<float>(moment.at(3)), 2.0F));
  for (const record::Finding& finding : resumed().findings) EXPECT_EQ(finding.cls, FindingClass::kNoise) << finding.message;
}

TEST_F(RunNoise, DoesNotHideALostMoment) {
  show_gradients();
  HostTensor& moment = taps(kRestart, 1).at("optim/m/experts/down_EDF").tensor;
  for (Dim i = 24; i < 48; ++i) moment.set(i, 0);
  const CheckOutcome outcome = resumed();
  EXPECT_EQ(outcome.state, CheckState::kFail);
  const record::Finding bug = first_failure(outcome);
  EXPECT_EQ(bug.stage, "optim/m/experts/down_EDF");
  EXPECT_EQ(bug.rank, 1);
  EXPECT_EQ(bug.expert, 3);
  EXPECT_THAT(bug.message, HasSubstr("24 of 48 elements differ from control 1"));
}

TEST_F(RunNoise, LeavesOpenWhatFollowsFromOtherChoices) {
  show_gradients();
  taps(kControl, 0).at("router/ids_TK").tensor.set(0, 0);
  taps(kRestart, 0).at("output/y_TD").tensor.set(0, 7);
  const CheckOutcome outcome = resumed();
  EXPECT_EQ(outcome.state, CheckState::kPass);
  ASSERT_EQ(outcome.findings.size(), 1U) << messages(outcome);
  EXPECT_EQ(outcome.findings[0].cls, FindingClass::kInconclusive);
  EXPECT_EQ(outcome.findings[0].stage, "router/ids_TK");
  // The weights that the batch began with do not follow from them.
  taps(kRestart, 0).at("param/experts/down_EDF").tensor.set(0, 7);
  EXPECT_EQ(first_failure(resumed()).stage, "param/experts/down_EDF");
}

TEST_F(RunNoise, KnowsOtherChoicesFromBeforeTheSave) {
  show_gradients();
  run_.shown(kMain, 1, 0, "router/ids_TK").set(0, 3);
  const CheckOutcome outcome = resumed();
  ASSERT_EQ(outcome.findings.size(), 1U) << messages(outcome);
  EXPECT_EQ(outcome.findings[0].stage, "router/ids_TK");
  EXPECT_EQ(outcome.findings[0].cls, FindingClass::kInconclusive);
}

// Rows of rank 0 in the given order of tokens; what they hold is their token's number.
void show_rows(std::map<std::string, trace::Tapped, std::less<>>& taps, const std::vector<Dim>& tokens) {
  const auto count = static_cast<Dim>(tokens.size());
  HostTensor keys(base::DType::kI64, {count, 3}), in_RD(base::DType::kF32, {count, 6});
  for (Dim row = 0; row < count; ++row) {
    const Dim token = tokens[static_cast<std::size_t>(row)];
    keys.set(3 * row, static_cast<double>(token));
    keys.set(3 * row + 2, token < 0 ? -1 : 1);
    for (Dim d = 0; d < 6; ++d) in_RD.set(6 * row + d, static_cast<double>(token));
  }
  taps["dispatch/rows_R3"] = {keys, {}, keys.shape()};
  taps["experts/in_RD"] = {in_RD, {}, in_RD.shape()};
}

TEST_F(RunNoise, DoesNotCareInWhichOrderRowsAreComputed) {
  const std::vector<std::vector<Dim>> orders = {{0, 1, 2}, {2, 0, 1}, {0, 1, 2}, {0, 2, 1}, {1, 0, 2}};   // by life
  for (std::size_t life = 0; life < run_.lives.size(); ++life) show_rows(taps(life, 0), orders[life]);
  const CheckOutcome outcome = resumed();
  EXPECT_EQ(outcome.state, CheckState::kPass);
  EXPECT_TRUE(outcome.findings.empty()) << messages(outcome);
  taps(kRestart, 0).at("experts/in_RD").tensor.set(0, 7);
  const record::Finding bug = first_failure(resumed());
  EXPECT_EQ(bug.stage, "experts/in_RD");
  EXPECT_EQ(bug.token, 2);
}

TEST_F(RunNoise, TakesTheOrderOfRowsForABugWhereTheControlsAgree) {
  for (std::size_t life = 0; life < run_.lives.size(); ++life) show_rows(taps(life, 0), {0, 1, 2});
  show_rows(taps(kRestart, 0), {0, 2, 1});
  EXPECT_EQ(first_failure(resumed()).stage, "dispatch/rows_R3");
}

TEST(KeyOrder, PutsPaddingLastAndLeavesOtherTapsAlone) {
  trace::Trace batch;
  batch.ranks.resize(1);
  show_rows(batch.ranks[0].taps, {-5, 4, 0});
  const HostTensor tokens = base::tensor_from_doubles(base::DType::kF32, {3}, std::vector<double>{7, 8, 9});
  batch.ranks[0].taps["output/y_TD"] = {tokens, {}, {3}};
  const trace::Trace sorted = in_key_order(batch);
  EXPECT_EQ(sorted.ranks[0].tensor("experts/in_RD")->at(0), 0);
  EXPECT_EQ(sorted.ranks[0].tensor("experts/in_RD")->at(6), 4);
  EXPECT_EQ(sorted.ranks[0].tensor("dispatch/rows_R3")->int_at(6), -5);
  EXPECT_TRUE(base::same_bytes(*sorted.ranks[0].tensor("output/y_TD"), tokens));
  EXPECT_EQ(batch.ranks[0].tensor("experts/in_RD")->at(0), -5) << "the trace itself does not change";
}

TEST(KindOf, PutsTheNormWithTheGradients) {
  EXPECT_EQ(kind_of("router/logits_TE"), "router");
  EXPECT_EQ(kind_of("grad/experts/down_EDF"), "grad");
  EXPECT_EQ(kind_of("optim/m/router/w_ED"), "optim/m");
  EXPECT_EQ(kind_of("optim/norm_1"), "optim/grad");
  EXPECT_EQ(kind_of("optim/grad/router/w_ED"), "optim/grad");
}

// One tap on one rank.
trace::Trace showing(std::vector<double> values) {
  trace::Trace trace;
  trace.ranks.resize(1);
  const auto count = static_cast<Dim>(values.size());
  trace.ranks[0].taps["output/y_TD"] = {base::tensor_from_doubles(base::DType::kF32, {count}, values), {}, {count}};
  return trace;
}

TEST(NoiseScale, MeasuresInRootMeanSquaresAndCountsTheElementsThatCarryIt) {
  const trace::Trace a = showing({2, -2, 2, -2}), b = showing({2, -2, 2, -3}), c = showing({3, -1, 3, -1}), d = showing({2});
  const NoiseScale scale({"output/y_TD"}, {&a}, base::DType::kF32);
  EXPECT_DOUBLE_EQ(scale.apart(a, b).distance, 0.5);
  EXPECT_DOUBLE_EQ(scale.apart(a, b).num_elements, 1);
  EXPECT_DOUBLE_EQ(scale.apart(a, c).distance, 1);
  EXPECT_DOUBLE_EQ(scale.apart(a, c).num_elements, 4);
  EXPECT_EQ(scale.apart(a, a).distance, 0);
  EXPECT_EQ(scale.apart(a, d).distance, std::numeric_limits<double>::infinity());
  EXPECT_TRUE(std::isnan(scale.apart(a, showing({2, -2, 2, std::nan("")})).distance));
  EXPECT_DOUBLE_EQ(scale.of_rounding(), 2 * 0x1p-23);
}

TEST(NoiseScale, AllowsForTheCasesRoundingInAWiderTensorButNotInACount) {
  const trace::Trace a = showing({2, -2});
  EXPECT_DOUBLE_EQ(NoiseScale({"output/y_TD"}, {&a}, base::DType::kBF16).of_rounding(), 2 * 0x1p-7);
  trace::Trace counted = a;
  counted.ranks[0].taps["output/y_TD"].tensor = base::tensor_from_ints({2}, std::vector<Dim>{5, 6});
  EXPECT_EQ(NoiseScale({"output/y_TD"}, {&counted}, base::DType::kBF16).of_rounding(), 0);
}

}  // namespace
}  // namespace moecheck::check
