// Whole reports of one realistic run, byte for byte. After a change that is meant, MOECHECK_UPDATE_GOLDEN=1 writes them anew
// (each test then fails once, so that an update never passes for a comparison): read the difference before committing it.
#include <cstdlib>
#include <filesystem>

#include <gtest/gtest.h>

#include "harness/base/files.h"
#include "reports/report.h"
#include "tests/unit/reports/sample_record.h"

namespace moecheck::reports {
namespace {

void expect_golden(const std::string& name, const std::string& rendered) {
  const auto path = std::filesystem::path(MOECHECK_SOURCE_DIR) / "tests/golden/reports" / name;
  if (std::getenv("MOECHECK_UPDATE_GOLDEN") != nullptr) {
    ASSERT_TRUE(base::write_file_atomically(path, rendered).ok());
    FAIL() << name << " was written anew; unset MOECHECK_UPDATE_GOLDEN to compare";
  }
  const auto golden = base::read_file(path);
  ASSERT_TRUE(golden.ok()) << golden.error().text();
  EXPECT_EQ(*golden, rendered) << name;
}

std::string rendered(std::string_view format) { return find_format(format)->render(sample::realistic_run()); }

TEST(GoldenReports, ConsoleTellsEachCaseAndThenTheSummary) {
  const auto run = sample::realistic_run();
  std::string text;
  for (std::size_t i = 0; i < run.cases.size(); ++i) text += console_case(run.cases[i], i + 1, run.cases.size(), false);
  expect_golden("console.txt", text + "----\n" + console_summary(run, false));
}

TEST(GoldenReports, MarkdownIsAsReviewed) { expect_golden("report.md", rendered("markdown")); }
TEST(GoldenReports, JunitIsAsReviewed) { expect_golden("junit.xml", rendered("junit")); }
TEST(GoldenReports, JsonIsAsReviewed) { expect_golden("report.json", rendered("json")); }
TEST(GoldenReports, HtmlIsAsReviewed) { expect_golden("report.html", rendered("html")); }

}  // namespace
}  // namespace moecheck::reports
