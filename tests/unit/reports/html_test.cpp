#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "reports/html_parts.h"
#include "tests/unit/reports/sample_record.h"

namespace moecheck::reports {
namespace {

using record::CaseRecord;
using record::StageCell;
using testing::ContainsRegex;
using testing::HasSubstr;
using testing::Not;

std::size_t count_of(const std::string& text, const std::string& part) {
  std::size_t count = 0;
  for (auto at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size())) ++count;
  return count;
}

StageCell cell(const std::string& stage, std::int64_t rank, double used, std::int64_t compared = 4) {
  return {stage, rank, used, 1, used, compared};
}

TEST(Waterfall, OutlinesExactlyTheCellThatTheRecordNames) {
  CaseRecord one;
  one.first_diverging = "b, rank 1, expert 3";
  one.stages = {cell("a", 1, 0.5), cell("a", 11, 7), cell("b", 1, 3), cell("b", 11, 3)};
  const std::string html = waterfall_html(one);
  EXPECT_EQ(count_of(html, "class=\"bar over first\""), 1U);
  EXPECT_THAT(html,
              HasSubstr("<th>b</th><td class=\"bar over first\" style=\"--w:58%\"><b class=\"flag\">first</b> &#10007; 3x</td>"));
}

TEST(Waterfall, TakesRankElevenForNoRankOne) {
  CaseRecord one;
  one.first_diverging = "a, rank 11";
  one.stages = {cell("a", 1, 7), cell("a", 11, 7)};
  EXPECT_THAT(waterfall_html(one),
              HasSubstr("<th>a</th><td class=\"bar over\" style=\"--w:64%\">&#10007; 7x</td><td class=\"bar over first\""));
}

TEST(Waterfall, OutlinesTheFirstFailingCellInStageOrderIfTheRecordNamesNone) {
  CaseRecord one;
  one.stages = {cell("late", 0, 0.1), cell("early", 1, 2), cell("late", 1, 9), cell("early", 0, 0.1)};
  const std::string html = waterfall_html(one);
  EXPECT_EQ(count_of(html, "first\""), 1U);
  EXPECT_LT(html.find("<th>late</th>"), html.find("<th>early</th>")) << "the record's order is stage order";
  EXPECT_THAT(html, ContainsRegex("over first.*9x"));
}

TEST(Waterfall, MarksNanAndInfinityAsBeyondTheBound) {
  CaseRecord one;
  one.stages = {cell("a", 0, std::numeric_limits<double>::quiet_NaN()), cell("a", 1, std::numeric_limits<double>::infinity(), 0)};
  const std::string html = waterfall_html(one);
  EXPECT_THAT(html, HasSubstr("&#10007; nan"));
  EXPECT_THAT(html, HasSubstr("&#10007; inf"));
}

TEST(Waterfall, ShowsNoBarWhereNothingWasComparedOrObserved) {
  CaseRecord one;
  one.stages = {cell("a", 0, 0, 0), cell("b", 1, 0)};
  const std::string html = waterfall_html(one);
  EXPECT_EQ(count_of(html, "nothing compared"), 1U);
  EXPECT_EQ(count_of(html, "not observed"), 2U);
}

TEST(Waterfall, HasALogarithmicBarWithTheBoundInTheMiddle) {
  CaseRecord one;
  one.stages = {cell("a", 0, 1), cell("a", 1, 1e-9), cell("a", 2, 1e9), cell("a", 3, 0)};
  const std::string html = waterfall_html(one);
  EXPECT_THAT(html, HasSubstr("--w:50%\">1x"));
  EXPECT_THAT(html, HasSubstr("--w:2%\">1e-9x"));
  EXPECT_THAT(html, HasSubstr("--w:100%\"><b class=\"flag\">first</b> &#10007; 1e9x"));
  EXPECT_THAT(html, HasSubstr("--w:0%\">0x"));
}

TEST(ExpertMap, SaysWhoseWeightsStandInAWrongPlace) {
  CaseRecord one;
  one.experts = {{1, 2, true, 7, 40, "expert 3"}, {1, 3, true, 7, 0, ""}, {0, 2, false, 0, 0, ""}};
  const std::string html = expert_map_html(one);
  EXPECT_EQ(count_of(html, "class=\"wrong\""), 1U);
  EXPECT_THAT(html, HasSubstr("7 <small>&#10007; holds expert 3 <small>40 wrong rows</small></small>"));
}

TEST(ExpertMap, ShowsRowsComputedForAnExpertThatTheRankDoesNotHold) {
  CaseRecord one;
  one.experts = {{0, 2, false, 5, 0, ""}};
  EXPECT_THAT(expert_map_html(one), HasSubstr("5 <small>&#10007; not held here</small>"));
}

TEST(ExpertMap, TellsAnIdleExpertFromOneThatLivesElsewhere) {
  CaseRecord one;
  one.experts = {{0, 0, true, 0, 0, ""}, {1, 0, false, 0, 0, ""}};
  const std::string html = expert_map_html(one);
  EXPECT_THAT(html, HasSubstr("<td class=\"s0\">0</td><td class=\"away\">&#183;</td>"));
}

TEST(CaseHtml, ShowsNoEmptyGrids) {
  CaseRecord one;
  const std::string html = case_html(one, 3, false);
  EXPECT_THAT(html, Not(HasSubstr("<figure")));
  EXPECT_THAT(html, HasSubstr("id=\"case-3\""));
  EXPECT_THAT(html, HasSubstr("UNTESTED"));
}

TEST(CaseHtml, NamesTheStepOfAFindingThatHasOne) {
  CaseRecord one;
  one.findings.resize(1);
  EXPECT_THAT(case_html(one, 1, false), Not(HasSubstr("step")));
  one.findings[0].step = 2;
  EXPECT_THAT(case_html(one, 1, false), HasSubstr("<small>step 2</small>"));
}

TEST(CaseHtml, PutsNoTextOfTheRecordIntoAnAttribute) {
  const std::string html = case_html(sample::hostile_run().cases[0], 1, true);
  for (auto at = html.find('<'); at != std::string::npos; at = html.find('<', at + 1)) {
    const std::string tag = html.substr(at, html.find('>', at) - at);
    EXPECT_THAT(tag, Not(HasSubstr("owned")));
    EXPECT_THAT(tag, Not(HasSubstr("&")));
  }
}

}  // namespace
}  // namespace moecheck::reports
