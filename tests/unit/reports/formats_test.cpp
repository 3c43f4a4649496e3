// What every format promises, whatever it looks like.
#include <limits>
#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "harness/base/json.h"
#include "reports/escape.h"
#include "reports/report.h"
#include "tests/unit/reports/sample_record.h"

namespace moecheck::reports {
namespace {

using record::RunRecord;
using record::Verdict;
using testing::HasSubstr;
using testing::Not;

std::string console_text(const RunRecord& run) {
  std::string text;
  for (std::size_t i = 0; i < run.cases.size(); ++i) text += console_case(run.cases[i], i + 1, run.cases.size(), false);
  return text + console_summary(run, false);
}

std::string rendered(std::string_view format, const RunRecord& run) {
  return format == "console" ? console_text(run) : find_format(format)->render(run);
}

const std::vector<std::string> kAllFormats = {"console", "html", "json", "junit", "markdown"};

TEST(Formats, AreRegisteredByTheirFilesAndSortedByName) {
  std::vector<std::string> names;
  for (const Format& format : formats()) names.emplace_back(std::string(format.name) + " " + std::string(format.file_name));
  EXPECT_EQ(names, (std::vector<std::string>{"html report.html", "json report.json", "junit junit.xml", "markdown report.md"}));
  EXPECT_EQ(find_format("html"), &formats()[0]);
  EXPECT_EQ(find_format("HTML"), nullptr);
}

TEST(FormatsDeathTest, ANameIsTakenOnlyOnce) {
  EXPECT_DEATH(register_format({"html", "again.html", [](const RunRecord&) { return std::string(); }}), "html");
}

class EveryFormat : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Reports, EveryFormat, testing::ValuesIn(kAllFormats), [](const auto& format) { return format.param; });

TEST_P(EveryFormat, IsDeterministic) {
  EXPECT_EQ(rendered(GetParam(), sample::realistic_run()), rendered(GetParam(), sample::realistic_run()));
}

TEST_P(EveryFormat, IsAFunctionOfTheRecordThatComesBackFromJson) {
  const auto back = record::run_record_from_json(record::to_json(sample::realistic_run()));
  ASSERT_TRUE(back.ok());
  EXPECT_EQ(rendered(GetParam(), *back), rendered(GetParam(), sample::realistic_run()));
}

TEST_P(EveryFormat, LetsNoControlCharacterOrBrokenUtf8Through) {
  const std::string text = rendered(GetParam(), sample::hostile_run());
  EXPECT_EQ(printable_text(text), text) << "there is something left to clean";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    ASSERT_FALSE((byte < 0x20 && c != '\n') || byte == 0x7F) << static_cast<int>(byte);
  }
}

TEST_P(EveryFormat, NamesEachCaseThatNeedsAttention) {
  const RunRecord run = sample::realistic_run();
  const std::string text = rendered(GetParam(), run);
  for (const std::size_t i : {1U, 3U, 4U, 5U, 7U, 8U}) EXPECT_THAT(text, HasSubstr(run.cases.at(i).id));
}

TEST_P(EveryFormat, ShowsNanAsNan) {
  RunRecord run = sample::realistic_run();
  auto& first = run.cases.at(1).findings.at(0);
  first.got = -std::numeric_limits<double>::quiet_NaN();
  first.used = first.got;
  const std::string text = rendered(GetParam(), run);
  EXPECT_THAT(text, HasSubstr("nan"));
  EXPECT_THAT(text, Not(HasSubstr("-nan")));
}

TEST_P(EveryFormat, RendersARunWithoutCases) {
  const std::string text = rendered(GetParam(), RunRecord{});
  EXPECT_TRUE(text.ends_with('\n'));
  const bool is_for_machines = GetParam() == "json" || GetParam() == "junit";
  EXPECT_EQ(text.find("no case was selected") == std::string::npos, is_for_machines);
}

class EveryMarkup : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Reports, EveryMarkup, testing::Values("html", "junit", "markdown"),
                         [](const auto& format) { return format.param; });

// Code blocks are literal in Markdown; what stands outside them is checked.
std::string without_code_blocks(const std::string& text) {
  std::string out;
  std::string fence;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) {
    if (!fence.empty()) {
      if (line == fence) fence.clear();
    } else if (line.starts_with("```")) {
      fence = line;
    } else {
      out += line + "\n";
    }
  }
  EXPECT_TRUE(fence.empty()) << "a block is not closed";
  return out;
}

TEST_P(EveryMarkup, InsertsNoElementThatTheSubjectNamed) {
  std::string text = rendered(GetParam(), sample::hostile_run());
  if (GetParam() == "markdown") text = without_code_blocks(text);
  EXPECT_THAT(text, Not(HasSubstr("<script")));
  EXPECT_THAT(text, Not(HasSubstr("<img")));
  EXPECT_THAT(text, HasSubstr("&lt;script"));
}

TEST(HumanFormats, ShowFailingCasesBeforeAllOthers) {
  const RunRecord run = sample::realistic_run();
  for (const std::string format : {"html", "markdown"}) {
    const std::string text = rendered(format, run);
    const auto failing = text.find(run.cases[5].id);  // the timeout
    ASSERT_NE(failing, std::string::npos) << format;
    EXPECT_LT(failing, text.find(run.cases[8].id)) << format << ": before the error";
    EXPECT_LT(failing, text.find(run.cases[6].reason)) << format << ": before the expected failure";
    EXPECT_LT(failing, text.find(run.cases[2].reason)) << format << ": before the unsupported case";
  }
}

TEST(JsonReport, IsTheRecordItself) {
  const auto parsed = base::parse_json(rendered("json", sample::realistic_run()), "report.json");
  ASSERT_TRUE(parsed.ok()) << parsed.error().text();
  EXPECT_EQ(*parsed, record::to_json(sample::realistic_run()));
}

TEST(MarkdownReport, StopsBeforeTheLimitOfAJobSummary) {
  RunRecord run = sample::realistic_run();
  run.cases.resize(1000, run.cases[1]);
  constexpr std::size_t kGithubLimit = 1 << 20;
  const std::string text = rendered("markdown", run);
  EXPECT_LT(text.size(), kGithubLimit / 4);
  EXPECT_THAT(text, HasSubstr("more such cases are in the full report"));
}

TEST(HtmlReport, StaysSmallForHundredsOfPassingCases) {
  const std::string text = rendered("html", sample::passing_run(1000));
  constexpr std::size_t kBytesPerCase = 600;
  EXPECT_LT(text.size(), 1000 * kBytesPerCase);
  EXPECT_THAT(text, HasSubstr("seed=999"));
}

TEST(HtmlReport, FetchesNothing) {
  const std::string text = rendered("html", sample::realistic_run());
  for (const char* forbidden : {"http:", "https:", "src=", "<link", "@import", "url(", "<script", "javascript:"})
    EXPECT_THAT(text, Not(HasSubstr(forbidden)));
}

}  // namespace
}  // namespace moecheck::reports
