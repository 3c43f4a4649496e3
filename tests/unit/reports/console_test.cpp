#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "reports/report.h"
#include "tests/unit/reports/sample_record.h"

namespace moecheck::reports {
namespace {

using record::CaseRecord;
using record::RunRecord;
using record::Verdict;
using testing::EndsWith;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

std::string last_line(const std::string& text) {
  EXPECT_TRUE(text.ends_with('\n'));
  const auto end = text.size() - 1;
  const auto before = text.rfind('\n', end - 1);
  return text.substr(before == std::string::npos ? 0 : before + 1, end - (before == std::string::npos ? 0 : before + 1));
}

TEST(ConsoleCase, IsEmptyForAPassingCase) { EXPECT_EQ(console_case(sample::passing_run(1).cases[0], 1, 1, true), ""); }

TEST(ConsoleCase, ShowsThreeFindingsAndCountsTheRest) {
  CaseRecord one = sample::realistic_run().cases.at(1);
  one.findings.resize(3);
  EXPECT_THAT(console_case(one, 1, 1, false), Not(HasSubstr("more finding")));
  one.findings.resize(6, one.findings[0]);
  EXPECT_THAT(console_case(one, 1, 1, false), HasSubstr("and 3 more findings"));
}

TEST(ConsoleCase, NamesTheCheckThatMadeACaseVacuous) {
  CaseRecord one;
  one.verdict = Verdict::kVacuous;
  one.checks = {{"stage_diff", record::CheckState::kVacuous, 0, "no rank has a token"}};
  EXPECT_THAT(console_case(one, 1, 1, false), HasSubstr("stage_diff compared nothing: no rank has a token"));
}

TEST(ConsoleCase, KeepsBothEndsOfALongReason) {
  CaseRecord one;
  one.verdict = Verdict::kError;
  for (int i = 0; i < 100; ++i) one.reason += "line " + std::to_string(i) + "\n";
  const std::string text = console_case(one, 1, 1, false);
  EXPECT_THAT(text, HasSubstr("reason: line 0\n"));
  EXPECT_THAT(text, HasSubstr("... 89 lines left out ...\n    line 90\n"));
  EXPECT_THAT(text, EndsWith("    line 99\n"));
}

TEST(ConsoleCase, IsColouredOnlyOnDemand) {
  const CaseRecord one = sample::realistic_run().cases.at(1);
  EXPECT_THAT(console_case(one, 1, 1, false), StartsWith("FAIL  impl="));
  EXPECT_THAT(console_case(one, 1, 1, false), Not(HasSubstr("\x1b")));
  EXPECT_THAT(console_case(one, 1, 1, true), StartsWith("\x1b[1;31mFAIL\x1b[0m  impl="));
}

TEST(ConsoleSummary, EndsWithOneLineThatCounts) {
  RunRecord run = sample::passing_run(150);
  EXPECT_EQ(console_summary(run, true), "moecheck: 150 pass in 8.1 s\n");
  run.cases[3].verdict = run.cases[7].verdict = Verdict::kFail;
  EXPECT_EQ(last_line(console_summary(run, false)), "moecheck: 148 pass, 2 fail in 8.1 s");
}

TEST(ConsoleSummary, SaysWhyThereIsNothing) {
  EXPECT_EQ(console_summary(RunRecord{}, false), "moecheck: 0 pass in 0.0 s; no case was selected\n");
  RunRecord run;
  run.interrupted = true;
  EXPECT_EQ(console_summary(run, false), "moecheck: 0 pass in 0.0 s, interrupted\n");
}

TEST(ConsoleSummary, RepeatsEveryCaseThatNeedsAttentionAndNoOther) {
  const RunRecord run = sample::realistic_run();
  const std::string text = console_summary(run, false);
  for (const CaseRecord& one : run.cases) {
    const bool is_quiet = one.verdict == Verdict::kPass || one.verdict == Verdict::kXfail || one.verdict == Verdict::kUnsupported;
    EXPECT_EQ(text.find("  " + one.id + "\n") == std::string::npos, is_quiet) << one.id;
  }
}

TEST(ConsoleSummary, DoesNotRepeatHundredsOfCases) {
  RunRecord run = sample::passing_run(500);
  for (CaseRecord& one : run.cases) one.verdict = Verdict::kFail;
  const std::string text = console_summary(run, false);
  EXPECT_THAT(text, HasSubstr("and 470 more such cases\n"));
  EXPECT_EQ(last_line(text), "moecheck: 0 pass, 500 fail in 8.1 s");
}

}  // namespace
}  // namespace moecheck::reports
