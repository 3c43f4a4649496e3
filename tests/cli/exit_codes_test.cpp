// The exit codes of design, section 10, each by a real command, and what git bisect is told.
#include <gmock/gmock.h>

#include "cli_fixture.h"

namespace moecheck::cli {
namespace {

using testing::HasSubstr;

TEST_F(CliTest, Exits0WhenAllIsGood) {
  const Outcome good = moecheck({"run", kCase});
  EXPECT_EQ(good.exit_code, 0) << good.err;
  EXPECT_THAT(good.out, HasSubstr("1 pass"));
}

TEST_F(CliTest, Exits1WhenACaseFails) {
  const Outcome failed = moecheck({"run", "--fault", "silent_fallback_impl"});
  EXPECT_EQ(failed.exit_code, 1) << failed.err;
  EXPECT_THAT(failed.out, testing::AllOf(HasSubstr("FAIL"), HasSubstr("path_taken"), HasSubstr("repro: moecheck run --case")));
}

TEST_F(CliTest, Exits1WhereRanksRecordNothingForABenchmark) {
  EXPECT_EQ(shell("MOECHECK_BENCH_NO_TRACE=1 exec moecheck run --case '" + std::string(kCase) + "'").exit_code, 1);
}

TEST_F(CliTest, Exits3OnAnErrorOfItsOwn) {
  // Nobody foresaw a current folder that is gone and a relative path.
  const Outcome internal = shell("mkdir gone && cd gone && rmdir ../gone && exec moecheck run '" + unruly_case("honest") +
                                "' --subject " MOECHECK_UNRULY_SUBJECT " --checkpoint c --out " + (folder_ / "run").string());
  EXPECT_EQ(internal.exit_code, 3);
  EXPECT_THAT(internal.err, HasSubstr("internal error"));
}

TEST_F(CliTest, Exits4OnAMistakeOnTheCommandLine) {
  for (const std::vector<std::string>& arguments : std::vector<std::vector<std::string>>{
           {}, {"rum"}, {"run", "--typo"}, {"run", "-j", "0", kCase}, {"run", "--repeat", "none", kCase}, {"run", "--report", "pdf", kCase},
           {"run", "--timeout", "-1", kCase}, {"run", "--shard", "3/2", kCase}, {"run", "-k", "(", kCase}, {"explain", "nothing"},
           {"run", "--fault", "no_such_fault"}, {"report", "t", "--report", "pdf"}}) {
    const Outcome wrong = moecheck(arguments);
    EXPECT_EQ(wrong.exit_code, arguments.empty() || arguments[0] != "report" ? 4 : 6) << wrong.err;
    EXPECT_THAT(wrong.err, testing::StartsWith("moecheck: "));
    EXPECT_EQ(wrong.out, "");
  }
}

TEST_F(CliTest, Exits5WhenNothingIsSelected) {
  EXPECT_EQ(moecheck({"run", kCase, "-k", "no_such_word"}).exit_code, 5);
  EXPECT_EQ(moecheck({"run"}).exit_code, 5);
  EXPECT_EQ(moecheck({"list", "-k", "no_such_word"}).exit_code, 5);
}

TEST_F(CliTest, Exits6WhenItCouldNotTest) {
  const Outcome missing = moecheck({"run", kCase, "--subject", "/no/such/subject"});
  EXPECT_EQ(missing.exit_code, 6);
  EXPECT_THAT(missing.err, testing::AllOf(HasSubstr("/no/such/subject"), HasSubstr("moecheck doctor")));
  const std::string unruly = MOECHECK_UNRULY_SUBJECT;
  for (const char* misdeed : {" describe_fails", " describe_crashes", " describe_garbage", " describe_protocol_2"})
    EXPECT_EQ(moecheck({"run", kCase, "--subject", unruly + misdeed}).exit_code, 6) << misdeed;
  EXPECT_EQ(moecheck({"run", unruly_case("honest"), "--subject", unruly + " ends_at_start"}).exit_code, 6);
  EXPECT_EQ(moecheck({"run", kCase, "--subject", unruly}).exit_code, 6) << "only unsupported cases test nothing";
}

TEST_F(CliTest, TellsWhenItsResultCannotBeWritten) {
  EXPECT_EQ(shell("moecheck list --json > /dev/full").exit_code, 6);
  EXPECT_EQ(shell("moecheck version > /dev/full").exit_code, 6);
}

// One command, all misdeeds: each case has its own verdict, and the honest one behind it is none the worse.
TEST_F(CliTest, GivesEachMisdeedItsVerdictAndRunsTheNextCase) {
  const std::vector<std::pair<std::string, std::string>> wanted = {
      {"segv.1.forward", "crash"},       {"hang_in_collective.1.forward", "fail"}, {"garbage.0.load", "error"}, {"io.1.forward", "error"},
      {"unsupported.0.open", "unsupported"}, {"raise.1.forward", "fail"}, {"truncated_trace.1.forward", "error"}, {"slow.1.forward", "pass"},
      {"other_count.1.forward", "fail"}};
  std::vector<std::string> arguments = {"run", "--json", "--timeout", "2", "--subject", MOECHECK_UNRULY_SUBJECT};
  int seed = 1;
  for (const auto& [impl, verdict] : wanted) {
    arguments.push_back(unruly_case(impl, fmt::format(" seed={}", ++seed)));
    arguments.push_back(unruly_case("honest", fmt::format(" seed={}", seed)));
  }
  const Outcome outcome = moecheck(arguments);
  EXPECT_EQ(outcome.exit_code, 1);
  const base::Json cases = json_of(outcome)["cases"];
  ASSERT_EQ(cases.size(), 2 * wanted.size());
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    EXPECT_EQ(cases[2 * i]["verdict"], wanted[i].second) << cases[2 * i]["id"] << cases[2 * i]["reason"];
    EXPECT_EQ(cases[2 * i + 1]["verdict"], "pass") << "after " << wanted[i].first << ": " << cases[2 * i + 1]["reason"];
  }
  EXPECT_THAT(cases[2]["reason"].get<std::string>(), HasSubstr("rank 1 waits in all_reduce over ep (sequence 3, at output/y_TD)"));
  EXPECT_THAT(cases[12]["reason"].get<std::string>(), HasSubstr("forward/rank1.safetensors"));
  EXPECT_TRUE(is_all_gone());
}

TEST_F(CliTest, DoesNotPassASubjectThatShowsNothing) {
  const Outcome outcome = moecheck({"run", "--json", "--subject", MOECHECK_UNRULY_SUBJECT, "impl=no_trace.0.forward model=mixtral mesh=ep=2 dtype=fp32"});
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_EQ(json_of(outcome)["summary"]["pass"], 0);
}

TEST_F(CliTest, TellsGitBisectGoodBadSkipAndAbort) {
  EXPECT_EQ(moecheck({"bisect", "step", kCase}).exit_code, 0);
  EXPECT_EQ(moecheck({"bisect", "step", "--fault", "silent_fallback_impl"}).exit_code, 1);
  EXPECT_EQ(moecheck({"bisect", "step", kCase, "--subject", "/no/such/subject"}).exit_code, 125);
  EXPECT_EQ(moecheck({"bisect", "step", kCase, "--out", "/dev/full/run"}).exit_code, 125);
}

TEST_F(CliTest, NeverBlamesACommitForATypo) {
  EXPECT_EQ(moecheck({"bisect", "step", "--typo", kCase}).exit_code, 129);
  EXPECT_EQ(moecheck({"bisect", "stpe", kCase}).exit_code, 129);
  EXPECT_EQ(moecheck({"bisect", "step", "--timeout", "soon", kCase}).exit_code, 129);
  EXPECT_EQ(moecheck({"bisect", "step", kCase, "--set", "dtpye=bf16"}).exit_code, 129);
  EXPECT_EQ(moecheck({"bisect", "step", "no_such_file.yaml"}).exit_code, 129);
  EXPECT_EQ(moecheck({"bisect", "step"}).exit_code, 129);
}

}  // namespace
}  // namespace moecheck::cli
