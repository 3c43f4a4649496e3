// A case of several batches: the judge runs the checks on each and merges what they say.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "simulated_run.h"

namespace moecheck::check {
namespace {

using record::CheckState;
using testing::HasSubstr;

// Two steps of two microbatches, by checks that read no expected value.
class Batches : public testing::Test {
 protected:
  Batches() : run_("mesh=ep=2") {
    run_.one.phases = {"load", "forward", "backward", "step"};
    run_.one.training.steps = 2;
    run_.one.training.microbatches = 2;
    run_.one.checks = {"expert_census", "nonfinite", "path_taken", "phase_completion", "token_conservation"};
    for (model::Dim b = 0; b < 4; ++b) {
      run_.forward(b);
      batches_.push_back(run_.observed);
      for (trace::RankTrace& rank : batches_.back().ranks)   // a trace keeps its tensors; the simulator goes on with new ones
        for (auto& [name, tapped] : rank.taps) tapped.tensor = base::tensor_from_doubles(tapped.tensor.dtype(), tapped.tensor.shape(), tapped.tensor.to_doubles());
    }
  }

  base::HostTensor& tensor(std::size_t batch, std::size_t rank, const std::string& tap) { return batches_[batch].ranks[rank].taps.at(tap).tensor; }

  record::CaseRecord judged() const {
    trace::Expected nothing{std::vector<trace::ExpectedRank>(2)};
    const std::vector<trace::Expected> expected(batches_.size(), nothing);
    return judge_alone(run_.one, expected, batches_, failures_).value();
  }

  static record::CheckResult result_of(const record::CaseRecord& one, const std::string& check) {
    return *std::ranges::find(one.checks, check, &record::CheckResult::name);
  }

  SimulatedRun run_;
  std::vector<trace::Trace> batches_;
  std::vector<PhaseFailure> failures_;
};

TEST_F(Batches, AddUpWhatWasCompared) {
  const record::CaseRecord one = judged();
  EXPECT_EQ(one.verdict, record::Verdict::kPass) << one.reason;
  EXPECT_EQ(result_of(one, "token_conservation").compared, 4 * 7 * 3);
  EXPECT_EQ(result_of(one, "phase_completion").compared, 2 * (1 + 4 + 4 + 2));
  std::int64_t tokens = 0;
  for (const record::ExpertCell& cell : one.experts) tokens += cell.tokens;
  EXPECT_EQ(tokens, 4 * 7 * 3);
  EXPECT_EQ(one.experts.size(), 12U);
}

TEST_F(Batches, JudgeTheLoadedWeightsOnce) {
  const record::CheckResult once = result_of(judged(), "expert_census");
  const trace::Expected nothing{std::vector<trace::ExpectedRank>(2)};
  const CheckOutcome first = find_check("expert_census")->run({run_.one, nothing, batches_[0]});
  EXPECT_EQ(once.compared, first.compared);
  EXPECT_EQ(once.state, CheckState::kPass);
  EXPECT_EQ(once.note, "");
  const CheckOutcome later = find_check("expert_census")->run({run_.one, nothing, batches_[1], {}, 1, {batches_.data(), 1}});
  EXPECT_EQ(later.state, CheckState::kNotApplicable);
  EXPECT_EQ(later.note, "weights have been trained");
}

TEST_F(Batches, TakeTheWorstState) {
  auto& counts = tensor(2, 1, "dispatch/counts_e");
  counts.set(1, counts.at(1) + 1);
  const record::CaseRecord one = judged();
  EXPECT_EQ(result_of(one, "token_conservation").state, CheckState::kFail);
  EXPECT_EQ(result_of(one, "nonfinite").state, CheckState::kPass);
  ASSERT_EQ(one.findings.size(), 1U);
  EXPECT_EQ(one.findings[0].step, 2);
  EXPECT_THAT(one.findings[0].message, HasSubstr("(microbatch 1)"));
  EXPECT_THAT(one.first_diverging, HasSubstr("dispatch/counts_e, rank 1"));
  EXPECT_THAT(one.first_diverging, HasSubstr("step 2"));
}

// The later stage of an earlier batch comes first.
TEST_F(Batches, BlameTheEarliestBatch) {
  tensor(3, 0, "router/logits_TE").set(0, std::numeric_limits<double>::quiet_NaN());
  tensor(1, 1, "output/y_TD").set(0, std::numeric_limits<double>::quiet_NaN());
  const record::CaseRecord one = judged();
  ASSERT_EQ(one.findings.size(), 2U);
  EXPECT_EQ(one.findings[0].stage, "output/y_TD");
  EXPECT_EQ(one.findings[0].step, 1);
  EXPECT_THAT(one.findings[0].message, HasSubstr("(microbatch 2)"));
  EXPECT_EQ(one.findings[1].step, 2);
}

TEST_F(Batches, SayOnceWhatRepeatsInEveryBatch) {
  for (auto& batch : batches_) batch.ranks[1].experts_backend = "grouped_mm";
  const record::CaseRecord one = judged();
  ASSERT_EQ(one.findings.size(), 1U);
  EXPECT_EQ(one.findings[0].check, "path_taken");
  EXPECT_EQ(one.findings[0].step, 1);
}

TEST_F(Batches, ReportAFailedPhaseOnceAndNothingAfterIt) {
  for (std::size_t b = 2; b < 4; ++b)
    for (auto& rank : batches_[b].ranks) std::erase_if(rank.taps, [](const auto& tap) { return !tap.first.starts_with("param/"); });
  for (auto& rank : batches_[2].ranks) rank.aborted = true;
  failures_ = {{0, "forward", "Connection closed by peer", "", 2}, {1, "forward", "IndexError: 12", "", 2}};
  const record::CaseRecord one = judged();
  ASSERT_EQ(one.findings.size(), 2U) << one.findings.back().message;
  for (const record::Finding& finding : one.findings) {
    EXPECT_EQ(finding.check, "phase_completion");
    EXPECT_EQ(finding.step, 2);
  }
  EXPECT_EQ(result_of(one, "token_conservation").state, CheckState::kPass);
  EXPECT_EQ(result_of(one, "phase_completion").compared, 2 * (1 + 3 + 3 + 1));
}

TEST_F(Batches, DoNotLetARankFallSilent) {
  std::erase_if(batches_[3].ranks[0].taps, [](const auto& tap) { return !tap.first.starts_with("param/"); });
  std::erase_if(batches_[3].ranks[1].taps, [](const auto& tap) { return !tap.first.starts_with("param/"); });
  const record::CaseRecord one = judged();
  EXPECT_EQ(one.verdict, record::Verdict::kFail);
  EXPECT_THAT(one.findings.front().message, HasSubstr("shows nothing of batch 3"));
}

TEST_F(Batches, KeepTheWorstCellOfAStage) {
  run_.one.checks = {"stage_diff"};
  std::vector<trace::Expected> expected(batches_.size());
  for (std::size_t b = 0; b < batches_.size(); ++b) {
    expected[b].ranks.resize(2);
    for (std::size_t r = 0; r < 2; ++r) {
      const base::HostTensor& y_TD = tensor(b, r, "output/y_TD");
      auto value = y_TD.to_doubles();
      value[5] += b == 2 ? 0x1p-12 : 0;
      const base::HostTensor wide = base::tensor_from_doubles(base::DType::kF64, y_TD.shape(), value);
      expected[b].ranks[r].taps["output/y_TD"] = {wide, wide, 2};
    }
  }
  const record::CaseRecord one = judge_alone(run_.one, expected, batches_).value();
  const auto is_first = [](const record::StageCell& cell) { return cell.stage == "output/y_TD" && cell.rank == 0; };
  ASSERT_EQ(std::ranges::count_if(one.stages, is_first), 1);
  const record::StageCell cell = *std::ranges::find_if(one.stages, is_first);
  EXPECT_NEAR(cell.measured, 0x1p-12, 0x1p-20);
  EXPECT_EQ(cell.compared, 4 * 7 * 14);
  EXPECT_GT(cell.used, 1);
}

TEST(Judge, LeavesOutTheStepInACaseWithoutSteps) {
  SimulatedRun run("mesh=none");
  run.one.checks = {"nonfinite"};
  run.tensor(0, "output/y_TD").set(0, std::numeric_limits<double>::infinity());
  const trace::Expected nothing{std::vector<trace::ExpectedRank>(1)};
  const record::CaseRecord one = judge_alone(run.one, {&nothing, 1}, {&run.observed, 1}).value();
  ASSERT_EQ(one.findings.size(), 1U);
  EXPECT_EQ(one.findings[0].step, std::nullopt);
  EXPECT_EQ(one.first_diverging, "output/y_TD, rank 0, token 0");
}

}  // namespace
}  // namespace moecheck::check
