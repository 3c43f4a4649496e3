// Cases with several lives, as a user runs them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/cli/cli_fixture.h"

namespace moecheck::cli {
namespace {

using base::Json;
using testing::HasSubstr;

constexpr const char* kTraining =
    "impl=ep_alltoall model=mixtral mesh=ep=2 dtype=bf16 tokens_over=dp,ep phases=load,forward,backward,step steps=2 optimizer=adamw save=sharded save_after=1 ";

std::string training(const std::string& more) { return kTraining + more; }

TEST_F(CliTest, GoesOnAfterRanksWereKilledInASaveAndLeavesNoneBehind) {
  const Outcome outcome = moecheck({"run", "--case", training("restart=back crash=files crash_rank=0"), "--out", "run", "--keep-traces", "all"});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.out << outcome.err;
  EXPECT_TRUE(is_all_gone());
  // What the broken save left lies aside, and the one before is whole.
  EXPECT_TRUE(std::filesystem::exists(folder_ / "run/traces/0/saved/step-2.tmp"));
  EXPECT_FALSE(std::filesystem::exists(folder_ / "run/traces/0/saved/step-2"));
  EXPECT_EQ(moecheck({"inspect", "run/traces/0/saved/step-1"}).exit_code, 0);
  EXPECT_EQ(moecheck({"inspect", "run/traces/0/saved/step-2.tmp"}).exit_code, 6);
}

TEST_F(CliTest, CannotTestACrashAtAPointThatTheRankDoesNotReach) {
  const Outcome outcome = moecheck({"run", "--case", training("restart=back crash=index crash_rank=1"), "--out", "run"});
  EXPECT_EQ(outcome.exit_code, 6);
  EXPECT_THAT(outcome.out, HasSubstr("main: the subject did not stop at 'index' of its save after step 2"));
  EXPECT_TRUE(is_all_gone());
}

TEST_F(CliTest, LeavesSavesThatDiffFindsEqualAcrossLayouts) {
  ASSERT_EQ(moecheck({"run", "--case", training("restart=ep_tp@ep=2,tp=2/back"), "--out", "run", "--keep-traces", "all"}).exit_code, 0);
  const Outcome there = moecheck({"diff", "run/traces/0/saved/step-1", "run/traces/0/life1/saved/step-1", "--bitwise"});
  EXPECT_EQ(there.exit_code, 0) << there.out;
  EXPECT_THAT(there.out, HasSubstr("equal: "));
  EXPECT_EQ(moecheck({"diff", "run/traces/0/saved/step-1", "run/traces/0/life2/saved/step-1", "--bitwise"}).exit_code, 0);
}

TEST_F(CliTest, NamesTheLifeInWhichSomethingIsWrong) {
  const Outcome outcome = moecheck({"run", "--case", training("restart=back fault=moments_not_restored"), "--out", "run"});
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_THAT(outcome.out, HasSubstr("restart 1 on ep=2"));
  EXPECT_THAT(record_of()["cases"][0]["first_diverging"].get<std::string>(), HasSubstr("restart 1 on ep=2"));
}

TEST_F(CliTest, RefusesALayoutOfALaterLife) {
  const Outcome outcome = moecheck({"run", "--case", "impl=ep_alltoall model=mixtral mesh=ep=2 dtype=bf16 save=sharded restart=ep=5", "--out", "run"});
  EXPECT_EQ(outcome.exit_code, 6);
  EXPECT_THAT(outcome.out, HasSubstr("restart 1 on ep=5: rank 0 in open: 12 experts cannot be spread evenly over ep=5"));
}

}  // namespace
}  // namespace moecheck::cli
