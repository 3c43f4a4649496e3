#include "harness/launch/child_process.h"

#include <gmock/gmock.h>

#include "launch_fixture.h"

namespace moecheck::launch {
namespace {

using base::ErrorCode;
using std::chrono::milliseconds;
using testing::HasSubstr;

class ChildProcessTest : public TemporaryFolder {
 protected:
  ChildCommand shell(const std::string& script) const { return {{"/bin/sh", "-c", script}, {}, folder_ / "output"}; }
  std::string output() const { return text_of(folder_ / "output"); }
  ChildExit exit_of(const std::string& script) const { return ChildProcess::start(shell(script)).value().wait_for(kLongEnough).value(); }
};

TEST_F(ChildProcessTest, TellsTheExitCode) {
  EXPECT_EQ(exit_of("exit 0").text(), "exit code 0");
  EXPECT_EQ(exit_of("exit 3").exit_code, 3);
}

TEST_F(ChildProcessTest, TellsTheSignalByItsName) {
  const ChildExit exit = exit_of("kill -SEGV $$");
  EXPECT_EQ(exit.signal, SIGSEGV);
  EXPECT_EQ(exit.text(), "signal 11 (Segmentation fault)");
}

TEST_F(ChildProcessTest, AppendsStdoutAndStderrToTheOutputFile) {
  exit_of("echo first");
  exit_of("echo second >&2");
  EXPECT_EQ(output(), "first\nsecond\n");
}

TEST_F(ChildProcessTest, SendsStderrToAFileOfItsOwnIfAsked) {
  ChildCommand command = shell("echo result; echo warning >&2");
  command.errors = folder_ / "errors";
  ASSERT_TRUE(ChildProcess::start(command).value().wait_for(kLongEnough));
  EXPECT_EQ(output(), "result\n");
  EXPECT_EQ(text_of(folder_ / "errors"), "warning\n");
}

TEST_F(ChildProcessTest, AddsToTheEnvironmentOfItsParent) {
  ::setenv("MOECHECK_TEST_KEPT", "kept", 1);
  ::setenv("MOECHECK_TEST_REPLACED", "old", 1);
  ChildCommand command = shell("echo $MOECHECK_TEST_KEPT $MOECHECK_TEST_REPLACED");
  command.environment = {{"MOECHECK_TEST_REPLACED", "new"}};
  ASSERT_TRUE(ChildProcess::start(command).value().wait_for(kLongEnough));
  EXPECT_EQ(output(), "kept new\n");
}

TEST_F(ChildProcessTest, ReadsNothingFromItsParentsStdin) {
  EXPECT_EQ(exit_of("read line").exit_code, 1);
}

TEST_F(ChildProcessTest, InheritsNoFileOfItsParent) {
  const std::ofstream open_here(folder_ / "open_here");
  exit_of("ls -l /proc/self/fd");
  EXPECT_THAT(output(), testing::Not(HasSubstr("open_here")));
}

TEST_F(ChildProcessTest, IsFoundOnThePath) {
  EXPECT_TRUE(ChildProcess::start({{"true"}, {}, folder_ / "output"}));
}

TEST_F(ChildProcessTest, NamesTheProgramThatIsMissing) {
  for (const std::string name : {"/no/such/program", "no-such-program"}) {
    const auto missing = ChildProcess::start({{name}, {}, folder_ / "output"});
    ASSERT_FALSE(missing);
    EXPECT_EQ(missing.error().code, ErrorCode::kIo);
    EXPECT_THAT(missing.error().text(), HasSubstr(name));
  }
}

TEST_F(ChildProcessTest, RefusesAFolderAsAProgram) {
  EXPECT_FALSE(ChildProcess::start({{folder_.string()}, {}, folder_ / "output"}));
}

TEST_F(ChildProcessTest, NamesTheOutputFileThatCannotBeOpened) {
  const auto started = ChildProcess::start({{"true"}, {}, folder_ / "absent" / "output"});
  ASSERT_FALSE(started);
  EXPECT_THAT(started.error().text(), HasSubstr("absent/output"));
}

TEST_F(ChildProcessTest, SaysNothingWhileTheChildRuns) {
  auto child = ChildProcess::start(shell("sleep 1000")).value();
  EXPECT_FALSE(child.exited());
  EXPECT_FALSE(child.wait_for(milliseconds(1)));
}

TEST_F(ChildProcessTest, KillsTheChildWhenItGoes) {
  int pid = -1;
  {
    auto child = ChildProcess::start(shell("trap '' TERM INT HUP; sleep 1000")).value();
    pid = child.pid();
    EXPECT_TRUE(is_running(pid));
  }
  EXPECT_FALSE(is_running(pid));
}

TEST_F(ChildProcessTest, KillsAStoppedChild) {
  auto child = ChildProcess::start(shell("sleep 1000")).value();
  ::kill(child.pid(), SIGSTOP);
  child.kill_group();
  EXPECT_EQ(child.wait_for(kLongEnough).value().signal, SIGKILL);
}

TEST_F(ChildProcessTest, ReachesGrandchildrenWithItsGroup) {
  auto child = ChildProcess::start(shell("sleep 1000 & echo $! > " + (folder_ / "pid").string() + "; wait")).value();
  ASSERT_TRUE(eventually([&] { return pid_in(folder_ / "pid") > 0; }));
  const int grandchild = pid_in(folder_ / "pid");
  EXPECT_TRUE(is_running(grandchild));
  child.kill_group();
  EXPECT_TRUE(eventually([&] { return !is_running(grandchild); }));
}

TEST_F(ChildProcessTest, EndsTheGrandchildrenOfAChildThatEndedAlone) {
  auto child = ChildProcess::start(shell("sleep 1000 & echo $! > " + (folder_ / "pid").string())).value();
  ASSERT_TRUE(child.wait_for(kLongEnough));
  const int grandchild = pid_in(folder_ / "pid");
  EXPECT_TRUE(eventually([&] { return !is_running(grandchild); }));
}

TEST_F(ChildProcessTest, DiesWithTheThreadThatStartedIt) {
  std::optional<ChildProcess> child;
  std::thread([&] { child = ChildProcess::start(shell("sleep 1000")).value(); }).join();
  EXPECT_EQ(child->wait_for(kLongEnough).value().signal, SIGKILL);
}

TEST_F(ChildProcessTest, LeadsASessionOfItsOwn) {
  auto child = ChildProcess::start(shell("sleep 1000")).value();
  EXPECT_EQ(::getsid(child.pid()), child.pid());
  EXPECT_EQ(::getpgid(child.pid()), child.pid());
}

TEST_F(ChildProcessTest, CanBeMovedAndStillEndsItsChild) {
  auto first = ChildProcess::start(shell("sleep 1000")).value();
  auto second = ChildProcess::start(shell("sleep 1000")).value();
  const int pid_of_first = first.pid();
  const int pid_of_second = second.pid();
  second = std::move(first);
  EXPECT_FALSE(is_running(pid_of_second));
  EXPECT_EQ(second.pid(), pid_of_first);
  EXPECT_TRUE(is_running(pid_of_first));
}

TEST_F(ChildProcessTest, ReadsWhatAProgramPrintsToStdoutOnly) {
  EXPECT_EQ(run_and_read(shell("echo result; echo warning >&2"), folder_ / "scratch", kLongEnough).value(), "result\n");
}

TEST_F(ChildProcessTest, ReadsTheSecondAnswerWithoutTheFirst) {
  ASSERT_TRUE(run_and_read(shell("echo first"), folder_ / "scratch", kLongEnough));
  EXPECT_EQ(run_and_read(shell("echo second"), folder_ / "scratch", kLongEnough).value(), "second\n");
}

TEST_F(ChildProcessTest, TellsWhyAProgramGaveNoAnswer) {
  const auto failed = run_and_read(shell("echo no such device >&2; exit 3"), folder_ / "scratch", kLongEnough);
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code, ErrorCode::kSubject);
  EXPECT_THAT(failed.error().text(), testing::AllOf(HasSubstr("exit code 3"), HasSubstr("no such device")));
}

TEST_F(ChildProcessTest, DoesNotWaitLongerThanAskedForAnAnswer) {
  const auto failed = run_and_read(shell("sleep 1000"), folder_ / "scratch", milliseconds(50));
  ASSERT_FALSE(failed);
  EXPECT_THAT(failed.error().text(), HasSubstr("no answer within 50 ms"));
}

}  // namespace
}  // namespace moecheck::launch
