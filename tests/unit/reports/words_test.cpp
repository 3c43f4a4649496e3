#include "reports/words.h"

#include <limits>

#include <gtest/gtest.h>

#include "tests/unit/reports/sample_record.h"

namespace moecheck::reports {
namespace {

using record::Finding;
using record::RunRecord;
using record::Verdict;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

RunRecord run_of(const std::vector<Verdict>& verdicts) {
  RunRecord run;
  for (const Verdict verdict : verdicts) {
    record::CaseRecord one;
    one.id = std::to_string(run.cases.size());
    one.verdict = verdict;
    run.cases.push_back(one);
  }
  return run;
}

TEST(NumberText, HasNoPaddingAndNoTrailingZeros) {
  EXPECT_EQ(value_text(0.4375), "0.4375");
  EXPECT_EQ(value_text(9), "9");
  EXPECT_EQ(value_text(-1.28125), "-1.28125");
  EXPECT_EQ(value_text(0), "0");
  EXPECT_EQ(value_text(-0.0), "0");
  EXPECT_EQ(value_text(123456), "123456");
  EXPECT_EQ(value_text(1200000), "1.2e6");
  EXPECT_EQ(magnitude_text(3.90625e-3), "3.91e-3");
  EXPECT_EQ(magnitude_text(1e-10), "1e-10");
  EXPECT_EQ(magnitude_text(12345), "12345") << "digits before the point are never cut";
}

TEST(NumberText, NamesWhatIsNoNumber) {
  EXPECT_EQ(value_text(kNan), "nan");
  EXPECT_EQ(magnitude_text(kInf), "inf");
  EXPECT_EQ(magnitude_text(-kInf), "-inf");
}

TEST(UsedText, NeverShowsOneForAValueOnEitherSideOfIt) {
  EXPECT_EQ(used_text(112), "112x");
  EXPECT_EQ(used_text(0.31), "0.31x");
  EXPECT_EQ(used_text(1), "1x");
  EXPECT_EQ(used_text(1.0004), ">1x");
  EXPECT_EQ(used_text(0.9996), "<1x");
  EXPECT_EQ(used_text(kNan), "nan");
  EXPECT_EQ(used_text(kInf), "inf");
}

TEST(UsedText, CountsNanAsBeyondTheBound) {
  EXPECT_TRUE(is_over_bound(kNan));
  EXPECT_TRUE(is_over_bound(kInf));
  EXPECT_TRUE(is_over_bound(1.0000001));
  EXPECT_FALSE(is_over_bound(1));
  EXPECT_FALSE(is_over_bound(0));
}

TEST(SecondsText, ChangesToMinutes) {
  EXPECT_EQ(seconds_text(0.04), "0.0 s");
  EXPECT_EQ(seconds_text(8.13), "8.1 s");
  EXPECT_EQ(seconds_text(59.94), "59.9 s");
  EXPECT_EQ(seconds_text(185), "3 min 05 s");
}

TEST(PlaceText, NamesOnlyWhatIsKnown) {
  Finding finding;
  EXPECT_EQ(place_text(finding), "");
  finding.rank = 0;
  EXPECT_EQ(place_text(finding), "rank 0");
  finding.token = 4;
  finding.slot = 1;
  finding.expert = 5;
  EXPECT_EQ(place_text(finding), "token 4, slot 1, expert 5, rank 0");
  finding.step = 2;
  EXPECT_EQ(place_text(finding), "token 4, slot 1, expert 5, rank 0, step 2");
}

TEST(NumbersText, ShowsTheErrorOnlyWhereWantAndGotDoNotSayIt) {
  Finding finding;
  finding.measured = 0.5;
  finding.bound = 0.25;
  finding.used = 2;
  EXPECT_EQ(numbers_text(finding), "error 0.5  bound 0.25  used 2x");
  finding.want = 1;
  finding.got = 1.5;
  EXPECT_EQ(numbers_text(finding), "want 1  got 1.5  bound 0.25  used 2x");
}

TEST(ReadingOrder, PutsFailingFirstAndPassingLastAndKeepsTheOrderWithin) {
  using V = Verdict;
  const auto run =
      run_of({V::kPass, V::kXfail, V::kVacuous, V::kSkipped, V::kInconclusive, V::kError, V::kFail, V::kPass, V::kUntested});
  std::string order;
  for (const auto* one : in_reading_order(run)) order += one->id;
  EXPECT_EQ(order, "268541307");
}

TEST(Headline, SaysTheWorstThatHappened) {
  using V = Verdict;
  EXPECT_EQ(headline(run_of({})), "no case was selected");
  EXPECT_EQ(headline(run_of({V::kPass, V::kPass})), "no case fails; 2 of 2 cases pass");
  EXPECT_EQ(headline(run_of({V::kPass, V::kFail, V::kError})), "1 of 3 cases fails");
  EXPECT_EQ(headline(run_of({V::kCrash, V::kFail, V::kError})), "2 of 3 cases fail");
  EXPECT_EQ(headline(run_of({V::kPass, V::kError})), "1 of 2 cases could not be tested");
  EXPECT_EQ(headline(run_of({V::kPass, V::kInconclusive})), "1 of 2 cases is inconclusive");
  EXPECT_EQ(headline(run_of({V::kUnsupported, V::kSkipped})), "nothing was tested");
  EXPECT_EQ(headline(run_of({V::kXfail})), "no case fails; 0 of 1 case pass");
}

TEST(Headline, SaysThatARunWasInterrupted) {
  RunRecord run = run_of({Verdict::kPass});
  run.interrupted = true;
  EXPECT_EQ(headline(run), "no case fails; 1 of 1 case passes (interrupted)");
}

TEST(UnobservedChecks, AreCountedOverAllCasesPassingOnesIncluded) {
  RunRecord run = run_of({Verdict::kPass, Verdict::kFail});
  for (auto& one : run.cases)
    one.checks = {{"comm_trace", record::CheckState::kUnobserved, 0, ""}, {"a", record::CheckState::kPass, 1, ""}};
  EXPECT_EQ(unobserved_checks(run), (std::vector<std::pair<std::string, std::int64_t>>{{"comm_trace", 2}}));
}

}  // namespace
}  // namespace moecheck::reports
