// The launcher over a subject that misbehaves: what it says of the run, and that the next case is none the worse for it.
#include "harness/launch/launcher.h"

#include <gmock/gmock.h>

#include "harness/launch/interrupts.h"
#include "launch_fixture.h"

namespace moecheck::launch {
namespace {

using std::chrono::milliseconds;
using testing::AllOf;
using testing::HasSubstr;

constexpr milliseconds kShort{400};   // for ranks that never answer

std::vector<std::string> unruly(const std::string& start_misdeed = "") {
  std::vector<std::string> command = {MOECHECK_UNRULY_SUBJECT};
  if (!start_misdeed.empty()) command.push_back(start_misdeed);
  return command;
}

cases::Case case_of(const std::string& impl, const cases::KnobValues& more = {}) {
  cases::KnobValues knobs = {{"impl", impl}, {"model", "tiny"}, {"mesh", "ep=2"}};
  knobs.insert(more.begin(), more.end());
  return cases::make_case(knobs, tiny_family).value();
}

// Two steps of two microbatches.
const cases::KnobValues kTraining = {{"phases", "load,forward,backward,step"}, {"steps", "2"}, {"microbatches", "2"}};

class LauncherTest : public TemporaryFolder {
 protected:
  CaseRun run(const std::string& impl, milliseconds limit = kLongEnough, const cases::KnobValues& more = {}) {
    if (launcher_ == nullptr) launcher_ = make_process_launcher({unruly(), folder_, false, kLongEnough});
    return launcher_->run(case_of(impl, more), {folder_ / "checkpoint", folder_ / "trace"}, limit);
  }
  CaseRun run_at_start(const std::string& start_misdeed, milliseconds start_limit = kLongEnough) {
    launcher_ = make_process_launcher({unruly(start_misdeed), folder_ / start_misdeed, false, start_limit});
    return launcher_->run(case_of("honest"), {folder_ / "checkpoint", folder_ / "trace"}, kLongEnough);
  }
  base::Result<subject::Capabilities> describe(const std::string& start_misdeed, milliseconds limit = kLongEnough) {
    return make_process_launcher({unruly(start_misdeed), folder_, false, limit})->describe();
  }

  std::unique_ptr<Launcher> launcher_;
};

struct Misbehaviour {
  std::string impl;
  RunEnd end;
  std::vector<std::string> reason;   // what it must name
  bool never_answers = false;
};

void PrintTo(const Misbehaviour& one, std::ostream* out) { *out << one.impl; }

class UnrulyRank : public LauncherTest, public testing::WithParamInterface<Misbehaviour> {};

TEST_P(UnrulyRank, IsNamedAndTheNextCaseIsFine) {
  const Misbehaviour& one = GetParam();
  EXPECT_EQ(run("honest").end, RunEnd::kCompleted) << "before";
  const CaseRun bad = run(one.impl, one.never_answers ? kShort : milliseconds(kLongEnough));
  EXPECT_EQ(bad.end, one.end) << bad.reason;
  for (const std::string& part : one.reason) EXPECT_THAT(bad.reason, HasSubstr(part));
  EXPECT_EQ(bad.reason.find('\n'), std::string::npos) << "a reason is one line";
  EXPECT_LT(bad.seconds, 10) << "the harness waited longer than it had to";
  const CaseRun next = run("honest");
  EXPECT_EQ(next.end, RunEnd::kCompleted) << "after: " << next.reason;
}

INSTANTIATE_TEST_SUITE_P(
    Launcher, UnrulyRank,
    testing::Values(
        Misbehaviour{"segv.1.forward", RunEnd::kCrashed, {"rank 1", "forward", "signal 11 (Segmentation fault)"}},
        Misbehaviour{"segv.0.open", RunEnd::kCrashed, {"rank 0", "open", "signal 11"}},
        Misbehaviour{"kill.0.load", RunEnd::kCrashed, {"rank 0", "load", "signal 9 (Killed)"}},
        Misbehaviour{"exit3.1.load", RunEnd::kCrashed, {"rank 1", "load", "exit code 3"}},
        Misbehaviour{"segv.1.close", RunEnd::kCrashed, {"rank 1", "close", "signal 11"}},
        Misbehaviour{"segv_peers_wait.1.forward", RunEnd::kCrashed, {"rank 1", "signal 11"}},
        Misbehaviour{"grandchild.0.forward", RunEnd::kCrashed, {"rank 0", "signal 11"}},
        Misbehaviour{"close_socket.1.forward", RunEnd::kCrashed, {"rank 1", "forward", "closed its socket"}},
        Misbehaviour{"hang.1.forward", RunEnd::kTimedOut, {"forward within 0.4 s", "rank 1 waits outside of a collective"}, true},
        Misbehaviour{"hang.0.load", RunEnd::kTimedOut, {"load", "rank 0 waits outside"}, true},
        Misbehaviour{"hang_in_collective.1.forward", RunEnd::kTimedOut,
                     {"rank 1 waits in all_reduce over ep (sequence 3, at output/y_TD)"}, true},
        Misbehaviour{"hang_ignoring_sigterm.1.forward", RunEnd::kTimedOut, {"rank 1"}, true},
        Misbehaviour{"garbage.1.forward", RunEnd::kBroken, {"rank 1", "forward", "not a JSON object", "Traceback"}},
        Misbehaviour{"wrong_id.0.load", RunEnd::kBroken, {"rank 0", "load", "with id"}},
        Misbehaviour{"twice.1.load", RunEnd::kBroken, {"rank 1", "answered request"}},
        Misbehaviour{"no_ok.1.forward", RunEnd::kBroken, {"rank 1", "'ok'"}},
        Misbehaviour{"unknown_code.1.forward", RunEnd::kBroken, {"rank 1", "gave_up"}},
        Misbehaviour{"oversized.1.forward", RunEnd::kBroken, {"rank 1", "without a line end"}},
        Misbehaviour{"io.1.forward", RunEnd::kBroken, {"rank 1", "forward", "says io"}},
        Misbehaviour{"oom.1.load", RunEnd::kBroken, {"rank 1", "load", "says oom"}},
        Misbehaviour{"unsupported.0.open", RunEnd::kUnsupported, {"rank 0", "open", "says unsupported"}},
        Misbehaviour{"refuse_alone.0.open", RunEnd::kUnsupported, {"rank 0", "says unsupported"}},
        Misbehaviour{"raise.1.forward", RunEnd::kRaised, {"rank 1", "forward", "says error"}},
        Misbehaviour{"raise_peers_wait.1.forward", RunEnd::kRaised, {"rank 1 in forward: says error", "rank 0 waits in all_reduce over ep"}},
        Misbehaviour{"other_collective.1.forward", RunEnd::kDiverged,
                     {"in forward", "entered all_gather sum of 35 fp32 over ep (sequence 1, at output/y_TD)", "entered all_reduce sum of 35 fp32",
                      "rank 0 waits in all_reduce over ep"}},
        Misbehaviour{"other_count.0.forward", RunEnd::kDiverged, {"in forward", "of 30 fp32", "of 35 fp32"}},
        Misbehaviour{"other_dtype.1.forward", RunEnd::kDiverged, {"of 35 fp32", "of 35 bf16"}},
        Misbehaviour{"other_splits.1.forward", RunEnd::kDiverged, {"sends 5,5 receives 5,5", "sends 4,6 receives 4,6"}},
        Misbehaviour{"diverges_and_raises.1.forward", RunEnd::kDiverged, {"of 30 fp32", "of 35 fp32"}},
        Misbehaviour{"all_gather_of_other_count.1.forward", RunEnd::kCompleted, {}},
        Misbehaviour{"noise.1.forward", RunEnd::kCompleted, {}},
        Misbehaviour{"slow.1.forward", RunEnd::kCompleted, {}},
        Misbehaviour{"no_trace.1.forward", RunEnd::kCompleted, {}},
        Misbehaviour{"truncated_trace.1.forward", RunEnd::kCompleted, {}}),
    [](const auto& row) {
      std::string name = row.param.impl;
      std::ranges::replace(name, '.', '_');
      return name;
    });

TEST_F(LauncherTest, TellsTheRankPhaseMessageAndTracebackOfWhatWasRaised) {
  const CaseRun raised = run("raise.1.forward");
  ASSERT_EQ(raised.raised.size(), 1U);
  EXPECT_EQ(raised.raised[0].rank, 1);
  EXPECT_EQ(raised.raised[0].phase, "forward");
  EXPECT_EQ(raised.raised[0].message, "says error");
  EXPECT_EQ(raised.raised[0].traceback, "line 1\nline 2");
}

TEST_F(LauncherTest, TellsBothRanksThatDivergedAndWhatEachEntered) {
  const CaseRun diverged = run("other_count.1.forward");
  ASSERT_TRUE(diverged.mismatch);
  const CollectiveMismatch& m = *diverged.mismatch;
  EXPECT_EQ(m.rank + m.other_rank, 1);
  const bool is_second_late = m.rank == 1;
  EXPECT_EQ(m.got.count, is_second_late ? 30 : 35);
  EXPECT_EQ(m.want.count, is_second_late ? 35 : 30);
  EXPECT_EQ(m.got.site, "output/y_TD");
  EXPECT_TRUE(diverged.raised.empty());
}

TEST_F(LauncherTest, TellsWhatWasRaisedBecauseRanksDiverged) {
  const CaseRun diverged = run("diverges_and_raises.1.forward");
  EXPECT_TRUE(diverged.mismatch);
  ASSERT_EQ(diverged.raised.size(), 1U);
  EXPECT_EQ(diverged.raised[0].rank, 1);
}

TEST_F(LauncherTest, ReplacesRanksThatDiverged) {
  ASSERT_EQ(run("other_count.1.forward").end, RunEnd::kDiverged);
  ASSERT_EQ(run("honest").end, RunEnd::kCompleted);
  EXPECT_TRUE(std::filesystem::exists(folder_ / "p1"));
}

TEST_F(LauncherTest, AsksForEachBatchAndForAStepAfterTheLastOfEachStep) {
  ASSERT_EQ(run("honest", kLongEnough, kTraining).end, RunEnd::kCompleted);
  std::vector<std::string> folders;
  for (const auto& entry : std::filesystem::directory_iterator(folder_ / "trace")) folders.push_back(entry.path().filename());
  EXPECT_THAT(folders, testing::UnorderedElementsAre("load", "forward", "forward.1", "forward.2", "forward.3", "backward", "backward.1",
                                                     "backward.2", "backward.3", "step.1", "step.3"));
}

TEST_F(LauncherTest, AsksForNothingThatTheCaseLeavesOut) {
  ASSERT_EQ(run("honest", kLongEnough, {{"phases", "load"}}).end, RunEnd::kCompleted);
  EXPECT_TRUE(std::filesystem::exists(folder_ / "trace" / "load"));
  EXPECT_FALSE(std::filesystem::exists(folder_ / "trace" / "forward"));
}

TEST_F(LauncherTest, NamesTheBatchAndTheStepInWhichItWentWrong) {
  const CaseRun raised = run("raise.1.backward.2", kLongEnough, kTraining);
  ASSERT_EQ(raised.raised.size(), 1U);
  EXPECT_EQ(raised.raised[0].phase, "backward");
  EXPECT_EQ(raised.raised[0].batch, 2);
  EXPECT_THAT(raised.reason, HasSubstr("rank 1 in backward of batch 3 (step 2): says error"));
  EXPECT_THAT(run("segv.0.step.1", kLongEnough, kTraining).reason, HasSubstr("ended in step of batch 2 (step 1) with signal 11"));
  EXPECT_THAT(run("other_count.0.forward.1", kLongEnough, kTraining).reason, HasSubstr("in forward of batch 2 (step 1) rank"));
  EXPECT_THAT(run("hang.0.forward.1", kShort, kTraining).reason, HasSubstr("no reply to forward of batch 2 (step 1) within 0.4 s"));
}

TEST_F(LauncherTest, KeepsItsRanksFromCaseToCase) {
  ASSERT_EQ(run("honest").end, RunEnd::kCompleted);
  ASSERT_EQ(run("honest").end, RunEnd::kCompleted);
  EXPECT_TRUE(std::filesystem::exists(folder_ / "p0"));
  EXPECT_FALSE(std::filesystem::exists(folder_ / "p1"));
}

TEST_F(LauncherTest, StartsNewRanksForEachCaseIfAsked) {
  launcher_ = make_process_launcher({unruly(), folder_, true, kLongEnough});
  ASSERT_EQ(run("honest").end, RunEnd::kCompleted);
  ASSERT_EQ(run("honest").end, RunEnd::kCompleted);
  EXPECT_TRUE(std::filesystem::exists(folder_ / "p1"));
}

TEST_F(LauncherTest, ReplacesRanksThatRanAFault) {
  launcher_ = make_process_launcher({unruly(), folder_, false, kLongEnough});
  cases::Case faulty = case_of("honest");
  faulty.fault = "any";
  ASSERT_EQ(launcher_->run(faulty, {folder_, folder_ / "trace"}, kLongEnough).end, RunEnd::kCompleted);
  ASSERT_EQ(run("honest").end, RunEnd::kCompleted);
  EXPECT_TRUE(std::filesystem::exists(folder_ / "p1"));
}

TEST_F(LauncherTest, ReachesTheGrandchildOfARankThatCrashed) {
  ASSERT_EQ(run("grandchild.0.forward").end, RunEnd::kCrashed);
  const int grandchild = pid_in(folder_ / "trace" / "grandchild");
  ASSERT_GT(grandchild, 0);
  EXPECT_TRUE(eventually([&] { return !is_running(grandchild); }));
}

TEST_F(LauncherTest, TellsWhatARankThatEndedAtItsStartPrinted) {
  const CaseRun broken = run_at_start("ends_at_start");
  EXPECT_EQ(broken.end, RunEnd::kBroken);
  EXPECT_THAT(broken.reason, AllOf(HasSubstr("rank 1 ended at start with exit code 7"), HasSubstr("no such device")));
}

TEST_F(LauncherTest, DoesNotWaitForTheOthersWhenARankDiesAtItsStart) {
  const CaseRun broken = run_at_start("rank_1_ends_others_wait");
  EXPECT_EQ(broken.end, RunEnd::kBroken);
  EXPECT_THAT(broken.reason, HasSubstr("rank 1 ended at start with signal 11"));
  EXPECT_LT(broken.seconds, 10);
}

TEST_F(LauncherTest, GivesUpOnARankThatNeverSaysHello) {
  const CaseRun broken = run_at_start("never_says_hello", kShort);
  EXPECT_EQ(broken.end, RunEnd::kBroken);
  EXPECT_THAT(broken.reason, HasSubstr("rank 0 did not say hello within 400 ms"));
}

TEST_F(LauncherTest, RefusesAHelloThatIsNone) {
  for (const char* hello : {"hello_of_garbage", "hello_of_protocol_2", "hello_of_wrong_types", "hello_without_end"}) {
    const CaseRun broken = run_at_start(hello);
    EXPECT_EQ(broken.end, RunEnd::kBroken) << hello;
    EXPECT_THAT(broken.reason, HasSubstr("does not speak protocol 1")) << hello;
  }
}

TEST_F(LauncherTest, NamesASubjectThatIsNotThere) {
  auto launcher = make_process_launcher({{"/no/such/subject"}, folder_, false, kLongEnough});
  const auto described = launcher->describe();
  ASSERT_FALSE(described);
  EXPECT_THAT(described.error().text(), HasSubstr("/no/such/subject"));
  const CaseRun broken = launcher->run(case_of("honest"), {folder_, folder_ / "trace"}, kLongEnough);
  EXPECT_EQ(broken.end, RunEnd::kBroken);
  EXPECT_THAT(broken.reason, HasSubstr("/no/such/subject"));
}

TEST_F(LauncherTest, ReadsTheCapabilitiesAsOftenAsAsked) {
  launcher_ = make_process_launcher({unruly(), folder_, false, kLongEnough});
  EXPECT_EQ(launcher_->describe().value().name, "unruly");
  EXPECT_EQ(launcher_->describe().value().name, "unruly");
}

TEST_F(LauncherTest, ReadsTheCapabilitiesOfASubjectThatWarnsOnStderr) {
  EXPECT_EQ(describe("describe_noise").value().name, "unruly");
}

TEST_F(LauncherTest, TellsHowADescriptionFailed) {
  const auto text = [&](const char* misdeed, milliseconds limit = kLongEnough) {
    const auto described = describe(misdeed, limit);
    EXPECT_FALSE(described) << misdeed;
    return described ? "" : described.error().text();
  };
  EXPECT_THAT(text("describe_fails"), AllOf(HasSubstr("exit code 1"), HasSubstr("no torch")));
  EXPECT_THAT(text("describe_crashes"), HasSubstr("signal 11"));
  EXPECT_THAT(text("describe_hangs", kShort), HasSubstr("no answer within 400 ms"));
  EXPECT_THAT(text("describe_garbage"), HasSubstr("--moecheck-describe"));
  EXPECT_THAT(text("describe_protocol_2"), HasSubstr("protocol 2"));
}

// In a process of its own: interrupts are counted for the life of a process.
TEST_F(LauncherTest, EndsTheRanksAtTheSecondInterrupt) {
  const auto interrupt_twice = [&] {
    count_interrupts();
    std::jthread twice([] {
      ::kill(::getpid(), SIGINT);
      eventually([] { return num_interrupts() == 1; });
      ::kill(::getpid(), SIGINT);
    });
    const CaseRun ended = run("hang.1.forward");
    launcher_.reset();
    std::fprintf(stderr, "%s after %.1f s\n", ended.reason.c_str(), ended.seconds);
    std::_Exit(ended.end == RunEnd::kInterrupted && ended.seconds < 10 ? 0 : 1);
  };
  EXPECT_EXIT(interrupt_twice(), testing::ExitedWithCode(0), "interrupted");
}

}  // namespace
}  // namespace moecheck::launch
