// The conformance kit on the in-tree ranks, which keep it, and on subjects of which each breaks one item (tests/subjects/meddling_subject.cpp).
#include <gmock/gmock.h>

#include "tests/cli/cli_fixture.h"

namespace moecheck::cli {
namespace {

using base::Json;
using testing::HasSubstr;

const std::string kRank = MOECHECK_BIN_DIR "/moecheck-rank";

// A mistake, and words of the message that names it.
struct Caught {
  std::string misdeed;
  std::string words;
};

class PluginCheckTest : public CliTest {
 protected:
  Outcome check(const std::string& target, const std::vector<std::string>& options) const {
    std::vector<std::string> arguments = {"plugin", "check", target, "--json"};
    arguments.insert(arguments.end(), options.begin(), options.end());
    return moecheck(arguments);
  }
  static std::string meddling(const std::string& misdeed) { return std::string(MOECHECK_MEDDLING_SUBJECT) + " " + misdeed + " " + kRank; }

  // What one item says of the sound subject behind somebody who does nothing, and of the same with each misdeed.
  void expect_caught(const std::string& item, const std::vector<Caught>& all, const std::string& timeout = "60") const {
    const Outcome sound = check(meddling("none"), {"--only", item});
    EXPECT_EQ(sound.exit_code, 0) << sound.out << sound.err;
    EXPECT_EQ(json_of(sound)["items"][0]["outcome"], "ok") << sound.out;
    for (const Caught& one : all) {
      const Outcome outcome = check(meddling(one.misdeed), {"--only", item, "--timeout", timeout});
      EXPECT_EQ(outcome.exit_code, 1) << one.misdeed << outcome.err;
      const Json found = json_of(outcome)["items"][0];
      EXPECT_EQ(found["name"], item);
      EXPECT_EQ(found["outcome"], "FAIL") << one.misdeed;
      EXPECT_THAT(found["message"].get<std::string>(), HasSubstr(one.words)) << one.misdeed;
    }
    EXPECT_TRUE(is_all_gone());
  }
};

TEST_F(PluginCheckTest, FindsThatTheInTreeRanksKeepEveryItem) {
  const Outcome outcome = check(kRank, {"--skip", "large"});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.out << outcome.err;
  const Json found = json_of(outcome)["items"];
  EXPECT_EQ(found.size(), 9U);
  for (const Json& item : found) EXPECT_EQ(item["outcome"], "ok") << item.dump();
}

TEST_F(PluginCheckTest, CatchesADescriptionThatMakesNoSense) {
  expect_caught("describe", {{"describe_prints_more", "not one JSON object"},
                             {"describe_changes", "two different things"},
                             {"describe_unknown_mesh_dim", "mesh dimension 'pp'"},
                             {"describe_no_backends", "names no experts backend"},
                             {"describe_no_implementation", "names no implementation"},
                             {"describe_no_load", "does not offer the phase load"}});
}

TEST_F(PluginCheckTest, CatchesCasesThatDoNotPassOrAreAllRefused) {
  expect_caught("cases", {{"wrong_weights", "param/router/w_ED"}, {"refuses_everything", "refuses every case"},
                          {"refuses_without_a_reason", "refused without a reason"}});
}

TEST_F(PluginCheckTest, CatchesWhatIsRunInsteadOfRefused) {
  expect_caught("refusals", {{"runs_something_else", "ran it as if it were something else"},
                             {"raises_instead_of_refusing", "with code error: KeyError"}});
}

TEST_F(PluginCheckTest, CatchesRanksThatDoNotAnswerWhatIsOutOfOrder) {
  expect_caught("order", {{"dies_of_unknown_operation", "`levitate` rank 0 ended with exit code 3"},
                          {"dies_of_second_close", "close twice: to `close` rank 0 ended with exit code 3"},
                          {"hangs_on_forward_before_open", "forward before open: to `forward` rank 0 did not answer"},
                          {"spoilt_by_disorder", "does not pass on the same ranks"}},
                "15");
}

TEST_F(PluginCheckTest, CatchesARankThatCannotBeWithoutTokens) {
  expect_caught("no_tokens", {{"dies_without_tokens", "rank 1 ended in open with exit code 3"}});
}

TEST_F(PluginCheckTest, CatchesWeightsThatLoseBits) {
  expect_caught("values", {{"quiets_nan", "0x7fc00000, and in the file 0x7fc12345"},
                           {"flushes_subnormals", "0x00000000, and in the file 0x00000001"},
                           {"forgets_sign_of_zero", "0x00000000, and in the file 0x80000000"}});
}

TEST_F(PluginCheckTest, CatchesWhatOutlivesACrashOrBreaksTheNextCase) {
  expect_caught("killed", {{"outlives_crash", "processes are left running"}, {"breaks_after_crash", "a lock is held"}});
}

TEST_F(PluginCheckTest, CatchesARankThatMayNotBeStopped) { expect_caught("stopped", {{"impatient", "stood still for 300 ms"}}); }

TEST_F(PluginCheckTest, CatchesRanksThatNeedTheirOutput) {
  expect_caught("noise", {{"dies_of_closed_output", "both closed"}, {"dies_of_full_disk", "a full disk behind both"}});
}

// A gibibyte to load, show and judge, twice.
TEST_F(PluginCheckTest, CatchesALargeParameterThatIsNotWhole) {
  if (std::getenv("MOECHECK_LARGE_TESTS") == nullptr) GTEST_SKIP() << "takes a minute and 6 GiB; set MOECHECK_LARGE_TESTS to run it";
  expect_caught("large", {{"cuts_large", "param/experts/gate_up_EGD"}});
}

TEST_F(PluginCheckTest, TellsASubjectThatIsNotThereFromOneThatFails) {
  EXPECT_EQ(check("./no_such_program", {}).exit_code, 6);
  EXPECT_EQ(check("no_such_plugin.so", {}).exit_code, 6);
  EXPECT_EQ(check(std::string(MOECHECK_UNRULY_SUBJECT) + " describe_fails", {"--only", "describe"}).exit_code, 1);
}

TEST_F(PluginCheckTest, RefusesAnItemThatDoesNotExistWithTheNearestName) {
  const Outcome outcome = check(kRank, {"--only", "kiled"});
  EXPECT_EQ(outcome.exit_code, 4);
  EXPECT_THAT(outcome.err, HasSubstr("did you mean 'killed'?"));
}

TEST_F(PluginCheckTest, WritesACppPluginThatBuildsAndPasses) {
  ASSERT_EQ(moecheck({"plugin", "new", "cpp", "layers/my-layer"}).exit_code, 0);
  const Outcome built = shell("cd layers/my-layer && cmake -S . -B build && cmake --build build");
  ASSERT_EQ(built.exit_code, 0) << built.out << built.err;
  const Outcome outcome = check("layers/my-layer/build/my_layer.so", {"--only", "cases"});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.out << outcome.err;
  EXPECT_EQ(json_of(outcome)["items"][0]["outcome"], "ok") << outcome.out;
  EXPECT_THAT(read("layers/my-layer/README.md"), HasSubstr("moecheck plugin check build/my_layer.so"));
}

TEST_F(PluginCheckTest, WritesOverNothing) {
  write("mine/test_mine.py", "precious\n");
  const Outcome outcome = moecheck({"plugin", "new", "python", "mine"});
  EXPECT_EQ(outcome.exit_code, 4);
  EXPECT_THAT(outcome.err, HasSubstr("mine/test_mine.py"));
  EXPECT_EQ(read("mine/test_mine.py"), "precious\n");
  EXPECT_FALSE(std::filesystem::exists(folder_ / "mine/mine.py")) << "none is written if one cannot be";
}

TEST_F(PluginCheckTest, RefusesAFolderWhoseNameMakesNoSubject) {
  for (const char* folder : {"7th", "moecheck", "layers/torch"}) EXPECT_EQ(moecheck({"plugin", "new", "python", folder}).exit_code, 4) << folder;
}

}  // namespace
}  // namespace moecheck::cli
