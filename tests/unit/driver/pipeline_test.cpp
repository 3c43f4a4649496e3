#include <array>
#include <csignal>
#include <thread>

#include <gmock/gmock.h>

#include "fake_launcher.h"
#include "harness/launch/interrupts.h"

namespace moecheck::driver {
namespace {

namespace fs = std::filesystem;
using launch::RunEnd;
using record::Verdict;
using testing::ElementsAre;
using testing::HasSubstr;

std::string only_reason(const record::RunRecord& run) { return run.cases.at(0).reason; }

TEST_F(PipelineTest, GivesEachEndOfARunItsVerdict) {
  const std::vector<RunEnd> ends = {RunEnd::kCompleted, RunEnd::kRaised, RunEnd::kUnsupported, RunEnd::kCrashed, RunEnd::kTimedOut, RunEnd::kBroken};
  add_cases(ends.size());
  script_.end_of = [&](const cases::Case& one, int) {
    const RunEnd end = ends[one.problem.seed - 1];
    return end == RunEnd::kRaised ? raised() : ended(end, "why");
  };
  EXPECT_THAT(verdicts(), ElementsAre("pass", "fail", "unsupported", "crash", "timeout", "error"));
}

TEST_F(PipelineTest, JudgesRanksThatDivergedAndSaysWhere) {
  options_.cases = {case_of(1, "mesh=ep=2 checks=comm_log")};
  script_.end_of = [](const cases::Case&, int) { return diverged(); };
  const record::RunRecord run = run_all();
  EXPECT_EQ(run.cases[0].verdict, Verdict::kFail);
  ASSERT_EQ(run.cases[0].findings.size(), 1U);
  EXPECT_EQ(run.cases[0].findings[0].check, "comm_log");
  EXPECT_EQ(run.cases[0].findings[0].rank, 1);
  EXPECT_EQ(only_reason(run), "in forward rank 1 entered another all_reduce");
}

TEST_F(PipelineTest, DoesNotPassARunThatBrokeOffWhateverTheChecksSay) {
  // Finishing is not what path_taken looks at, nor agreement what phase_completion does.
  options_.cases = {case_of(1, "checks=path_taken"), case_of(2, "mesh=ep=2 checks=phase_completion")};
  script_.end_of = [](const cases::Case& one, int) { return one.problem.seed == 1 ? raised() : diverged(); };
  const record::RunRecord run = run_all();
  EXPECT_EQ(run.cases[0].verdict, Verdict::kFail);
  EXPECT_EQ(run.cases[1].verdict, Verdict::kFail);
  EXPECT_THAT(run.cases[1].reason, testing::AllOf(HasSubstr("broke off"), HasSubstr("rank 1 entered another all_reduce")));
}

TEST_F(PipelineTest, RecordsWhatIsNeededToRepeatACase) {
  add_cases(1);
  options_.repro_suffix = " --subject 'python my.py'";
  const record::RunRecord run = run_all();
  EXPECT_EQ(run.subject, "fake 7");
  EXPECT_EQ(run.command, "moecheck run tests");
  const record::CaseRecord& one = run.cases.at(0);
  EXPECT_EQ(one.id, options_.cases[0].id);
  EXPECT_EQ(one.scenario, "cases/fake");
  EXPECT_EQ(one.config, cases::config_of(options_.cases[0].one));
  EXPECT_EQ(one.repro, "moecheck run --case \"" + one.id + "\" --subject 'python my.py'");
  EXPECT_EQ(one.subject_seconds, 0.5);
}

TEST_F(PipelineTest, DoesNotRunWhatTheSubjectDeclaresItCannot) {
  options_.cases = {case_of(1, "mesh=tp=2"), case_of(2, "dtype=bf16")};
  EXPECT_THAT(verdicts(), ElementsAre("unsupported", "unsupported"));
  EXPECT_TRUE(script_.seeds.empty());
}

TEST_F(PipelineTest, CallsAnUnknownCheckAnErrorAndNotAPass) {
  options_.cases = {case_of(1, "checks=no_such_check")};
  const record::RunRecord run = run_all();
  EXPECT_EQ(run.cases[0].verdict, Verdict::kError);
  EXPECT_THAT(only_reason(run), HasSubstr("no_such_check"));
}

TEST_F(PipelineTest, DoesNotPassRanksThatShowNothing) {
  options_.cases = {case_of(1, "checks=all")};
  script_.writes_traces = false;
  EXPECT_EQ(run_all().cases[0].verdict, Verdict::kVacuous);
}

TEST_F(PipelineTest, CallsADamagedTraceAnErrorAndNamesTheFile) {
  add_cases(1);
  script_.end_of = [&](const cases::Case&, int) {
    const fs::path file = options_.scratch / "w0" / "trace" / "forward" / "rank0.safetensors";
    fs::resize_file(file, fs::file_size(file) / 2);
    return completed();
  };
  const record::RunRecord run = run_all();
  EXPECT_EQ(run.cases[0].verdict, Verdict::kError);
  EXPECT_THAT(only_reason(run), HasSubstr("forward/rank0.safetensors"));
}

TEST_F(PipelineTest, DoesNotJudgeATraceThatAnEarlierCaseLeft) {
  options_.cases = {case_of(1), case_of(2, "checks=all")};
  script_.end_of = [&](const cases::Case& one, int) {
    // The second case's ranks write nothing; what lies there must not be the first one's.
    script_.writes_traces = false;
    EXPECT_EQ(fs::exists(options_.scratch / "w0" / "trace"), one.problem.seed == 1);
    return completed();
  };
  EXPECT_THAT(verdicts(), ElementsAre("pass", "vacuous"));
}

TEST_F(PipelineTest, TurnsAnExpectedFailureIntoXfailAndAnExpectedOneThatPassesIntoXpass) {
  add_cases(5);
  for (IdentifiedCase& one : options_.cases) one.one.xfail_reason = "issue 7";
  script_.end_of = [](const cases::Case& one, int) {
    switch (one.problem.seed) {
      case 1: return completed();
      case 2: return raised();
      case 3: return ended(RunEnd::kCrashed, "rank 0 ended with signal 11");
      case 4: return ended(RunEnd::kBroken, "disk full");
      default: return ended(RunEnd::kUnsupported, "no");
    }
  };
  const record::RunRecord run = run_all();
  EXPECT_EQ(run.cases[0].verdict, Verdict::kXpass);
  EXPECT_THAT(run.cases[0].reason, HasSubstr("issue 7"));
  EXPECT_EQ(run.cases[1].verdict, Verdict::kXfail);
  EXPECT_EQ(run.cases[2].verdict, Verdict::kXfail);
  EXPECT_EQ(run.cases[2].reason, "issue 7 (crash: rank 0 ended with signal 11)");
  EXPECT_EQ(run.cases[3].verdict, Verdict::kError) << "could not test is no expected failure";
  EXPECT_EQ(run.cases[4].verdict, Verdict::kUnsupported);
  EXPECT_EQ(run.exit_code(), record::kExitFailed);
}

TEST_F(PipelineTest, CallsRepeatsThatDisagreeFlaky) {
  add_cases(2);
  options_.num_repeats = 4;
  script_.end_of = [](const cases::Case& one, int attempt) { return one.problem.seed == 1 && attempt == 2 ? raised() : completed(); };
  const record::RunRecord run = run_all();
  EXPECT_EQ(run.cases[0].verdict, Verdict::kFlaky);
  EXPECT_EQ(run.cases[0].reason, "fail in repeat 3 after 2 x pass: rank 0 in forward: no");
  EXPECT_FALSE(run.cases[0].findings.empty());
  EXPECT_EQ(run.cases[1].verdict, Verdict::kPass);
  EXPECT_EQ(script_.attempts[1], 3) << "one disagreement is enough";
  EXPECT_EQ(script_.attempts[2], 4);
}

TEST_F(PipelineTest, DoesNotExcuseAFlakyCaseAsAnExpectedFailure) {
  add_cases(1);
  options_.cases[0].one.xfail_reason = "issue 7";
  options_.num_repeats = 2;
  script_.end_of = [](const cases::Case&, int attempt) { return attempt == 1 ? completed() : raised(); };
  EXPECT_THAT(verdicts(), ElementsAre("flaky"));
}

TEST_F(PipelineTest, CallsACrashInARepeatACrash) {
  add_cases(3);
  options_.num_repeats = 3;
  script_.end_of = [](const cases::Case& one, int attempt) {
    constexpr std::array kEnds = {RunEnd::kCrashed, RunEnd::kTimedOut, RunEnd::kBroken};
    return attempt == 1 ? ended(kEnds[one.problem.seed - 1], "rank 1") : completed();
  };
  const record::RunRecord run = run_all();
  EXPECT_EQ(run.cases[0].verdict, Verdict::kCrash);
  EXPECT_EQ(run.cases[0].reason, "crash in repeat 2 after 1 x pass: rank 1");
  EXPECT_EQ(run.cases[1].verdict, Verdict::kTimeout);
  EXPECT_EQ(run.cases[2].verdict, Verdict::kError);
}

TEST_F(PipelineTest, DoesNotRepeatWhatCannotBeRun) {
  add_cases(1);
  options_.num_repeats = 5;
  script_.end_of = [](const cases::Case&, int) { return ended(RunEnd::kTimedOut, "why"); };
  EXPECT_THAT(verdicts(), ElementsAre("timeout"));
  EXPECT_EQ(script_.attempts[1], 1);
}

TEST_F(PipelineTest, StopsAtTheFirstFailureIfAsked) {
  add_cases(5);
  options_.stops_at_first_failure = true;
  script_.end_of = [](const cases::Case& one, int) { return one.problem.seed == 2 ? raised() : completed(); };
  EXPECT_THAT(verdicts(), ElementsAre("pass", "fail"));
  EXPECT_THAT(script_.seeds, ElementsAre(1, 2));
}

TEST_F(PipelineTest, KeepsTheOrderOfTheCasesWithSeveralWorkers) {
  add_cases(12);
  options_.num_workers = 3;
  script_.end_of = [&](const cases::Case& one, int) {
    // The first case ends last: it waits until the others are done.
    const auto num_started = [&] {
      const std::lock_guard lock(script_.mutex);
      return script_.seeds.size();
    };
    while (one.problem.seed == 1 && num_started() < 12) std::this_thread::yield();
    return one.problem.seed % 4 == 0 ? raised() : completed();
  };
  const record::RunRecord run = run_all();
  ASSERT_EQ(run.cases.size(), 12U);
  for (std::size_t i = 0; i < 12; ++i) {
    EXPECT_EQ(run.cases[i].id, options_.cases[i].id);
    EXPECT_EQ(run.cases[i].verdict, (i + 1) % 4 == 0 ? Verdict::kFail : Verdict::kPass);
  }
}

TEST_F(PipelineTest, TellsOfEachCaseAsItHappens) {
  add_cases(2);
  std::vector<std::string> told;
  options_.on_start = [&](const IdentifiedCase&, std::size_t index) { told.push_back("start " + std::to_string(index)); };
  options_.on_end = [&](const record::CaseRecord&, std::size_t index) {
    EXPECT_EQ(events().size(), index + 2) << "a case is on disk before it is told";
    told.push_back("end " + std::to_string(index));
  };
  run_all();
  EXPECT_THAT(told, ElementsAre("start 0", "end 0", "start 1", "end 1"));
}

TEST_F(PipelineTest, GivesCasesWithTheSameWeightsOneCheckpoint) {
  options_.cases = {case_of(1, "tokens=3"), case_of(1, "tokens=5"), case_of(2, "tokens=3")};
  std::vector<fs::path> given;
  script_.end_of = [&](const cases::Case& one, int) {
    given.push_back(script_.checkpoints[one.problem.seed]);
    EXPECT_TRUE(fs::exists(given.back() / "model.safetensors"));
    return completed();
  };
  run_all();
  ASSERT_EQ(given.size(), 3U);
  EXPECT_EQ(given[0], given[1]);
  EXPECT_NE(given[0], given[2]);
  EXPECT_FALSE(fs::exists(given[0])) << "removed with the run";
}

TEST_F(PipelineTest, GivesTheSubjectTheCheckpointThatWasNamed) {
  add_cases(1);
  options_.checkpoint = folder_ / "mine";
  run_all();
  EXPECT_EQ(script_.checkpoints[1], folder_ / "mine");
}

TEST_F(PipelineTest, CallsACheckpointThatCannotBeWrittenAnError) {
  std::ofstream(folder_ / "file");
  options_.scratch = folder_ / "file";
  add_cases(1);
  const record::RunRecord run = run_all();
  EXPECT_EQ(run.cases[0].verdict, Verdict::kError);
  EXPECT_THAT(only_reason(run), HasSubstr("Not a directory"));
  EXPECT_TRUE(script_.seeds.empty());
  EXPECT_EQ(run.exit_code(), record::kExitCouldNotTest);
}

TEST_F(PipelineTest, LeavesCasesToBeJudgedLater) {
  add_cases(2);
  options_.stops_after_trace = true;
  options_.keep_traces = KeepTraces::kAll;
  EXPECT_THAT(verdicts(), ElementsAre("skipped", "skipped"));
  const auto kept = kept_traces(options_.run_dir).value();
  ASSERT_EQ(kept.size(), 2U);
  EXPECT_EQ(judge_trace(options_.cases[1].one, kept[1].trace, kept[1].extent).value().verdict, Verdict::kPass);
}

// Interrupts are counted for the life of a process: each of these runs in one of its own.
TEST_F(PipelineTest, FinishesTheCaseThatRunsAtTheFirstInterrupt) {
  add_cases(3);
  options_.num_repeats = 4;
  const auto run_interrupted = [&] {
    launch::count_interrupts();
    script_.end_of = [](const cases::Case& one, int attempt) {
      if (one.problem.seed == 2 && attempt == 1) ::raise(SIGINT);
      return completed();
    };
    const record::RunRecord run = run_all();
    const bool is_right = run.interrupted && run.exit_code() == record::kExitInterrupted && run.cases.size() == 2 && run.summary_text() == "2 pass" &&
                          script_.attempts[2] == 2 && record::read_run_record(options_.run_dir).value().interrupted;
    std::_Exit(is_right ? 0 : 1);
  };
  EXPECT_EXIT(run_interrupted(), testing::ExitedWithCode(0), "");
}

TEST_F(PipelineTest, GivesNoVerdictToACaseThatWasEndedByHand) {
  add_cases(3);
  options_.num_repeats = 4;
  const auto run_interrupted = [&] {
    launch::count_interrupts();
    script_.end_of = [](const cases::Case& one, int attempt) {
      if (one.problem.seed == 1 && attempt < 3) return completed();
      ::raise(SIGINT);
      ::raise(SIGINT);
      return ended(RunEnd::kInterrupted, "interrupted");
    };
    const record::RunRecord run = run_all();
    // The repeats that were finished count, and do not become flaky.
    const bool is_right = run.cases.size() == 1 && run.summary_text() == "1 pass" && run.exit_code() == record::kExitInterrupted;
    std::_Exit(is_right ? 0 : 1);
  };
  EXPECT_EXIT(run_interrupted(), testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace moecheck::driver
