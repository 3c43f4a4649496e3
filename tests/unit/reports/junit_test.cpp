#include <map>
#include <regex>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "reports/report.h"
#include "tests/unit/reports/sample_record.h"

namespace moecheck::reports {
namespace {

using record::CaseRecord;
using record::RunRecord;
using record::Verdict;
using testing::HasSubstr;
using testing::Not;

std::string junit(const RunRecord& run) { return find_format("junit")->render(run); }

std::string junit_of(Verdict verdict) {
  CaseRecord one;
  one.id = "case";
  one.verdict = verdict;
  one.reason = "why";
  RunRecord run;
  run.cases = {one};
  return junit(run);
}

// The name of the first tag that does not fit, or "" for a well-formed document. Enough for a writer that makes elements,
// quoted attributes and text only.
std::string first_broken_tag(const std::string& xml) {
  static const std::regex kTag(R"(<(/?)([a-z]+)((?: [a-z_]+="[^"<>]*")*)(/?)>)");
  std::vector<std::string> open;
  std::size_t at = xml.find("?>") + 2;
  for (at = xml.find('<', at); at != std::string::npos; at = xml.find('<', at + 1)) {
    std::smatch match;
    const std::string rest = xml.substr(at, xml.find('>', at) - at + 1);
    if (!std::regex_match(rest, match, kTag)) return rest;
    if (match[1] == "/") {
      if (open.empty() || open.back() != match[2]) return rest;
      open.pop_back();
    } else if (match[4] != "/") {
      open.push_back(match[2]);
    }
  }
  return open.empty() ? "" : open.back();
}

TEST(JunitReport, IsWellFormedAlsoForHostileNames) {
  EXPECT_EQ(first_broken_tag(junit(sample::realistic_run())), "");
  EXPECT_EQ(first_broken_tag(junit(sample::hostile_run())), "");
  EXPECT_EQ(first_broken_tag(junit(RunRecord{})), "");
}

TEST(JunitReport, UsesAmpersandsOnlyForEntities) {
  const std::string xml = junit(sample::hostile_run());
  const std::regex entity("&(amp|lt|gt|quot|#39);");
  for (std::size_t at = xml.find('&'); at != std::string::npos; at = xml.find('&', at + 1))
    EXPECT_TRUE(std::regex_search(xml.substr(at, 6), entity, std::regex_constants::match_continuous)) << xml.substr(at, 20);
}

TEST(JunitReport, MapsEachVerdictToTheOutcomeThatCiUnderstands) {
  const std::map<Verdict, std::string> expected = {{Verdict::kUntested, "failure"},  {Verdict::kPass, ""},
                                                   {Verdict::kFail, "failure"},      {Verdict::kError, "error"},
                                                   {Verdict::kCrash, "failure"},     {Verdict::kTimeout, "failure"},
                                                   {Verdict::kSkipped, "skipped"},   {Verdict::kUnsupported, "skipped"},
                                                   {Verdict::kXfail, "skipped"},     {Verdict::kXpass, "failure"},
                                                   {Verdict::kVacuous, "failure"},   {Verdict::kFlaky, "failure"},
                                                   {Verdict::kInconclusive, "error"}};
  for (const Verdict verdict : record::all_verdicts()) {
    const std::string xml = junit_of(verdict);
    for (const std::string element : {"failure", "error", "skipped"})
      EXPECT_EQ(xml.find("<" + element + " ") != std::string::npos, element == expected.at(verdict))
          << record::verdict_name(verdict);
  }
}

TEST(JunitReport, CountsAgreeWithTheElements) {
  const std::string xml = junit(sample::realistic_run());
  EXPECT_THAT(xml, HasSubstr("<testsuites name=\"moecheck\" tests=\"9\" failures=\"5\" errors=\"1\" skipped=\"2\" "));
  EXPECT_THAT(xml, HasSubstr("<testsuite name=\"ep/basic\" tests=\"3\" failures=\"1\" errors=\"1\" skipped=\"0\" "));
}

TEST(JunitReport, GathersTheCasesOfAScenarioInOneSuite) {
  const std::string xml = junit(sample::realistic_run());
  const auto first = xml.find("<testsuite name=\"ep/basic\"");
  ASSERT_NE(first, std::string::npos);
  EXPECT_EQ(xml.find("<testsuite name=\"ep/basic\"", first + 1), std::string::npos);
}

TEST(JunitReport, FailureTextReadsAsOnTheConsole) {
  const RunRecord run = sample::realistic_run();
  EXPECT_THAT(junit(run),
              HasSubstr("want 0.4375  got 0  bound 3.91e-3  used 112x    likely: tokens of non-local experts dropped"));
  EXPECT_THAT(junit(run), HasSubstr("(2 of 9, 0.4 s)"));
}

}  // namespace
}  // namespace moecheck::reports
