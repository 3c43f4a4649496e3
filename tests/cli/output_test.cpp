// What goes to stdout, in which shape, and the commands that run nothing.
#include <gmock/gmock.h>

#include "cli_fixture.h"

namespace moecheck::cli {
namespace {

namespace fs = std::filesystem;
using base::Json;
using testing::AllOf;
using testing::HasSubstr;

void expect_keys(const Json& json, const std::vector<std::string>& keys) {
  for (const std::string& key : keys) EXPECT_TRUE(json.contains(key)) << key << " is missing in " << json.dump().substr(0, 300);
}

TEST_F(CliTest, ListsCasesAsJson) {
  const Json list = json_of(moecheck({"list", "--json", "suites/smoke.yaml"}));
  ASSERT_GE(list.size(), 150U);
  for (const Json& one : list) {
    expect_keys(one, {"id", "scenario", "config", "tags", "ranks"});
    EXPECT_TRUE(one["id"].is_string() && one["config"].is_object() && one["tags"].is_array() && one["ranks"].is_number_integer());
    EXPECT_EQ(one["config"]["fault"], "none");
  }
}

TEST_F(CliTest, ListsTheZooAsJson) {
  const Json list = json_of(moecheck({"zoo", "list", "--json"}));
  ASSERT_GE(list.size(), 8U);
  for (const Json& fault : list) {
    expect_keys(fault, {"name", "origin", "expected_checks", "control"});
    EXPECT_FALSE(fault["expected_checks"].empty()) << fault["name"];
  }
}

TEST_F(CliTest, PrintsTheRecordAndNothingElseToStdout) {
  const Outcome outcome = moecheck({"run", "--json", "--fault", "num_experts_attribute", "--out", "run"});
  EXPECT_EQ(outcome.exit_code, 1);
  const Json record = json_of(outcome);
  EXPECT_EQ(record, record_of()) << "--json prints run.json";
  EXPECT_EQ(record["schema"], 1);
  EXPECT_EQ(record["summary"]["fail"], 1);
  EXPECT_EQ(record["summary"]["pass"], 0);
  const Json& one = record["cases"][0];
  expect_keys(one, {"id", "scenario", "config", "verdict", "seconds", "repro", "checks", "findings"});
  ASSERT_FALSE(one["checks"].empty());
  for (const Json& check : one["checks"]) {
    expect_keys(check, {"name", "state", "compared"});
    EXPECT_THAT(check["state"].get<std::string>(), testing::AnyOf("pass", "fail", "vacuous", "unobserved", "not_applicable"));
  }
  ASSERT_FALSE(one["findings"].empty());
  for (const Json& finding : one["findings"])
    expect_keys(finding, {"check", "class", "stage", "tensor", "rank", "expert", "token", "measured", "bound", "used", "message", "hypothesis"});
  EXPECT_THAT(outcome.err, HasSubstr("[1/1] fail")) << "progress goes to stderr";
}

TEST_F(CliTest, EndsStdoutWithTheSummary) {
  const Outcome outcome = moecheck({"run", kCase, "--out", "run"});
  const auto last = outcome.out.rfind('\n', outcome.out.size() - 2);
  EXPECT_THAT(outcome.out.substr(last + 1), AllOf(testing::StartsWith("moecheck: 1 pass"), testing::EndsWith("\n")));
  EXPECT_EQ(outcome.out.find('\033'), std::string::npos) << "no colour where it is not wanted";
}

TEST_F(CliTest, WritesTheReportsThatAreAskedForAndLeavesNoOldOnes) {
  ASSERT_EQ(moecheck({"run", kCase, "--out", "run"}).exit_code, 0);
  for (const char* file : {"report.html", "report.json", "junit.xml", "report.md", "run.json", "events.jsonl"}) EXPECT_TRUE(fs::exists(folder_ / "run" / file)) << file;
  ASSERT_EQ(moecheck({"run", kCase, "--out", "run", "--report", "junit"}).exit_code, 0);
  EXPECT_TRUE(fs::exists(folder_ / "run" / "junit.xml"));
  EXPECT_FALSE(fs::exists(folder_ / "run" / "report.html")) << "of the run before";
  const Outcome report = moecheck({"report", "run", "--report", "html,markdown"});
  EXPECT_EQ(report.exit_code, 0);
  EXPECT_EQ(report.out, "run/report.html\nrun/report.md\n");
  EXPECT_THAT(read("run/report.md"), HasSubstr("1 of 1 case passes"));
}

TEST_F(CliTest, RemembersTheLatestRunAndItsFailures) {
  EXPECT_EQ(moecheck({"run", kCase, "--fault", "silent_fallback_impl", "--set", "experts_backend=grouped_mm"}).exit_code, 1);
  const Outcome again = moecheck({"run", "--lf", std::string(kCase) + " experts_backend=grouped_mm fault=silent_fallback_impl", kCase});
  EXPECT_EQ(again.exit_code, 1) << again.err;
  EXPECT_THAT(again.err, AllOf(HasSubstr("[1/1]"), testing::Not(HasSubstr("[2/2]"))));
  EXPECT_EQ(moecheck({"report", ".moecheck/latest"}).exit_code, 0);
}

TEST_F(CliTest, ExplainsEveryCheckFaultAndVerdict) {
  EXPECT_THAT(moecheck({"explain", "stage_diff"}).out, AllOf(HasSubstr("Proves:"), HasSubstr("Cannot prove:")));
  EXPECT_THAT(moecheck({"explain", "vacuous"}).out, HasSubstr("exit code 1"));
  EXPECT_THAT(moecheck({"explain", "router_scatter_slice"}).out, AllOf(HasSubstr("Origin:"), HasSubstr("Caught by")));
  EXPECT_THAT(moecheck({"explain", "stage_dif"}).err, HasSubstr("stage_diff"));
}

TEST_F(CliTest, ShowsWhoHoldsWhat) {
  const Outcome shown = moecheck({"show", kCase});
  EXPECT_EQ(shown.exit_code, 0);
  EXPECT_THAT(shown.out, AllOf(HasSubstr("rank 0"), HasSubstr("rank 1"), HasSubstr("experts")));
}

TEST_F(CliTest, FindsAllWellWithTheDoctor) {
  const Outcome good = moecheck({"doctor"});
  EXPECT_EQ(good.exit_code, 0) << good.out;
  EXPECT_THAT(good.out, AllOf(HasSubstr("moecheck-rank"), testing::Not(HasSubstr("MISSING"))));
}

TEST_F(CliTest, TellsByTheDoctorThatTheRanksProgramIsMissing) {
  fs::copy_file(MOECHECK_BIN_DIR "/moecheck", folder_ / "moecheck");
  const Outcome alone = shell("./moecheck doctor");
  EXPECT_EQ(alone.exit_code, 6);
  EXPECT_THAT(alone.out, AllOf(HasSubstr("MISSING"), HasSubstr("moecheck-rank is missing"), HasSubstr("->")));
  const Outcome run = shell("./moecheck run '" + std::string(kCase) + "'");
  EXPECT_EQ(run.exit_code, 6);
  EXPECT_THAT(run.err, AllOf(HasSubstr("moecheck-rank"), HasSubstr("moecheck doctor")));
}

TEST_F(CliTest, TellsByTheDoctorThatThereIsNoScratchFolder) {
  const Outcome bad = shell("MOECHECK_TMPDIR=/no/such/folder moecheck doctor");
  EXPECT_EQ(bad.exit_code, 6);
  EXPECT_THAT(bad.out, HasSubstr("MOECHECK_TMPDIR"));
}

TEST_F(CliTest, PrintsTheSchemaAndTheVersion) {
  EXPECT_TRUE(json_of(moecheck({"schema"})).is_object());
  EXPECT_THAT(moecheck({"version"}).out, testing::StartsWith("moecheck "));
}

TEST_F(CliTest, LeavesNoScratchFolderAndNoRankBehind) {
  ASSERT_EQ(moecheck({"run", kCase}).exit_code, 0);
  EXPECT_TRUE(fs::is_empty(folder_ / "t"));
  EXPECT_TRUE(ranks().empty());
}

}  // namespace
}  // namespace moecheck::cli
