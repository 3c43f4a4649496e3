// A failure can be had again: by its id, from its trace, and in two steps.
#include <gmock/gmock.h>

#include "cli_fixture.h"

namespace moecheck::cli {
namespace {

using base::Json;

std::vector<std::string> with(std::vector<std::string> arguments, const std::vector<std::string>& more) {
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

// What must not change from one run of a case to the next.
Json judgement(const Json& one) {
  return {{"id", one["id"]}, {"verdict", one["verdict"]}, {"checks", one["checks"]}, {"findings", one["findings"]}, {"first_diverging", one["first_diverging"]}};
}

void expect_same_judgements(const Json& run, const Json& again) {
  ASSERT_EQ(run["cases"].size(), again["cases"].size());
  for (std::size_t i = 0; i < run["cases"].size(); ++i) EXPECT_EQ(judgement(run["cases"][i]), judgement(again["cases"][i]));
}

TEST_F(CliTest, RepeatsEachFaultExactlyByItsReproLine) {
  const std::vector<std::string> ids = faulty_cases();
  ASSERT_GE(ids.size(), 8U);
  ASSERT_EQ(moecheck(with({"run", "--out", "run"}, ids)).exit_code, 1);
  const Json cases = record_of()["cases"];
  for (const Json& one : cases) {
    EXPECT_EQ(one["verdict"], "fail") << one["id"];
    // As a user would: the printed line, in new processes.
    const Outcome again = shell(one["repro"].get<std::string>() + " --out again");
    EXPECT_EQ(again.exit_code, 1) << one["repro"];
    EXPECT_EQ(judgement(record_of("again")["cases"][0]), judgement(one));
  }
}

TEST_F(CliTest, JudgesKeptTracesAgainWithTheSameFindings) {
  const std::vector<std::string> ids = faulty_cases(FaultyCases::kForEachCheck);
  ASSERT_GE(ids.size(), 12U);
  ASSERT_EQ(moecheck(with({"run", "--out", "run"}, ids)).exit_code, 1);
  const Outcome checked = moecheck({"check", "run", "--json", "--out", "checked"});
  EXPECT_EQ(checked.exit_code, 1);
  expect_same_judgements(record_of(), json_of(checked));
  EXPECT_EQ(json_of(checked), record_of("checked"));
  // The same in two steps.
  EXPECT_EQ(moecheck(with({"run", "--until", "trace", "--out", "traced"}, ids)).exit_code, 0);
  EXPECT_EQ(record_of("traced")["summary"]["skipped"], ids.size());
  const Outcome later = moecheck({"check", "traced", "--json"});
  EXPECT_EQ(later.exit_code, 1);
  expect_same_judgements(record_of(), json_of(later));
}

TEST_F(CliTest, DoesNotJudgeACrashAway) {
  const std::vector<std::string> cases = {unruly_case("honest"), unruly_case("segv.1.forward")};
  EXPECT_EQ(moecheck(with({"run", "--until", "trace", "--out", "run", "--subject", MOECHECK_UNRULY_SUBJECT}, cases)).exit_code, 1);
  const Outcome checked = moecheck({"check", "run", "--json"});
  EXPECT_EQ(checked.exit_code, 1);
  EXPECT_EQ(json_of(checked)["summary"]["pass"], 1);
  EXPECT_EQ(json_of(checked)["summary"]["crash"], 1);
}

TEST_F(CliTest, SaysTheSameWithSeveralCasesAtATime) {
  const std::vector<std::string> ids = faulty_cases();
  ASSERT_EQ(moecheck(with({"run", "--out", "one"}, {ids[0], ids[1], kCase, ids[2]})).exit_code, 1);
  ASSERT_EQ(moecheck(with({"run", "--out", "three", "-j", "3"}, {ids[0], ids[1], kCase, ids[2]})).exit_code, 1);
  expect_same_judgements(record_of("one"), record_of("three"));
}

TEST_F(CliTest, KnowsAnExpectedFailureAlsoWhenItIsJudgedAgain) {
  const std::string scenario = "version: 1\nmodel: mixtral\nimpl: raise.1.forward\nmesh: \"ep=2\"\nchecks: [phase_completion]\nxfail: [{reason: issue 7}]\n";
  write("expected.yaml", scenario);
  EXPECT_EQ(moecheck({"run", "expected.yaml", "--out", "run", "--subject", MOECHECK_UNRULY_SUBJECT}).exit_code, 0);
  EXPECT_EQ(record_of()["cases"][0]["verdict"], "xfail");
  const Outcome checked = moecheck({"check", "run", "--json"});
  EXPECT_EQ(checked.exit_code, 0);
  EXPECT_EQ(json_of(checked)["cases"][0]["verdict"], "xfail");
  write("expected.yaml", std::string(scenario).replace(scenario.find("raise.1.forward"), 15, "honest"));
  EXPECT_EQ(moecheck({"run", "expected.yaml", "--out", "run", "--subject", MOECHECK_UNRULY_SUBJECT}).exit_code, 1);
  EXPECT_EQ(record_of()["cases"][0]["verdict"], "xpass");
}

}  // namespace
}  // namespace moecheck::cli
