#include "harness/driver/run_folder.h"

#include <csignal>
#include <sys/resource.h>

#include <gmock/gmock.h>

#include "fake_launcher.h"
#include "harness/base/files.h"
#include "harness/driver/zoo.h"

namespace moecheck::driver {
namespace {

namespace fs = std::filesystem;
using base::ErrorCode;
using testing::HasSubstr;

TEST_F(PipelineTest, WritesALineForTheStartAndOneForEachCase) {
  add_cases(2);
  const record::RunRecord run = run_all();
  const std::vector<base::Json> lines = events();
  ASSERT_EQ(lines.size(), 3U);
  EXPECT_EQ(lines[0]["event"], "start");
  EXPECT_EQ(lines[0]["cases"], 2);
  EXPECT_EQ(lines[0]["command"], "moecheck run tests");
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(lines[i + 1]["event"], "case");
    EXPECT_EQ(lines[i + 1]["index"], i);
    EXPECT_EQ(lines[i + 1]["case"], record::to_json(run.cases[i]));
  }
}

TEST_F(PipelineTest, WritesTheRecordThatItReturns) {
  add_cases(2);
  const record::RunRecord run = run_all();
  EXPECT_EQ(record::to_json(record::read_run_record(options_.run_dir).value()), record::to_json(run));
}

TEST_F(PipelineTest, KeepsTheTracesOfFailedCasesWithWhatJudgesThemAgain) {
  add_cases(3);
  options_.cases[1].one.xfail_reason = "issue 7";
  script_.end_of = [](const cases::Case& one, int) { return one.problem.seed == 2 ? raised() : completed(); };
  run_all();
  const auto kept = kept_traces(options_.run_dir).value();
  ASSERT_EQ(kept.size(), 1U);
  EXPECT_EQ(kept[0].id, options_.cases[1].id);
  EXPECT_EQ(kept[0].xfail_reason, "issue 7");
  ASSERT_EQ(kept[0].extent.failures.size(), 1U);
  EXPECT_EQ(kept[0].extent.failures[0].message, "no");
  EXPECT_EQ(kept[0].extent.failures[0].traceback, "line 1");
  EXPECT_TRUE(fs::exists(kept[0].trace / "forward" / "rank0.safetensors"));
}

TEST_F(PipelineTest, KeepsInWhichBatchAPhaseFailed) {
  add_cases(1);
  script_.end_of = [](const cases::Case&, int) {
    launch::CaseRun run = raised();
    run.raised[0].batch = 3;
    return run;
  };
  run_all();
  EXPECT_EQ(kept_traces(options_.run_dir).value().at(0).extent.failures.at(0).batch, 3);
}

TEST_F(PipelineTest, KeepsTheCollectivesInWhichRanksDiverged) {
  options_.cases = {case_of(1, "mesh=ep=2 checks=comm_log")};
  script_.end_of = [](const cases::Case&, int) { return diverged(); };
  const record::RunRecord run = run_all();
  const auto kept = kept_traces(options_.run_dir).value();
  ASSERT_EQ(kept.size(), 1U);
  ASSERT_TRUE(kept[0].extent.mismatch);
  EXPECT_EQ(kept[0].extent.mismatch->rank, 1);
  EXPECT_EQ(kept[0].extent.mismatch->other_rank, 0);
  EXPECT_EQ(kept[0].extent.mismatch->got, diverged().mismatch->got);
  EXPECT_EQ(kept[0].extent.mismatch->want, diverged().mismatch->want);
  const auto again = judge_trace(options_.cases[0].one, kept[0].trace, kept[0].extent).value();
  EXPECT_EQ(again.verdict, record::Verdict::kFail);
  ASSERT_FALSE(again.findings.empty());
  EXPECT_EQ(again.findings[0].message, run.cases[0].findings.at(0).message);
}

TEST_F(PipelineTest, KeepsNoTraceThatBreaksOffAnywhere) {
  add_cases(2);
  options_.keep_traces = KeepTraces::kAll;
  script_.end_of = [](const cases::Case& one, int) { return one.problem.seed == 1 ? ended(launch::RunEnd::kTimedOut, "why") : completed(); };
  run_all();
  const auto kept = kept_traces(options_.run_dir).value();
  ASSERT_EQ(kept.size(), 1U);
  EXPECT_EQ(kept[0].id, options_.cases[1].id);
}

TEST_F(PipelineTest, KeepsTracesInTheOrderOfTheCases) {
  add_cases(12);
  options_.keep_traces = KeepTraces::kAll;
  run_all();
  const auto kept = kept_traces(options_.run_dir).value();
  ASSERT_EQ(kept.size(), 12U);
  for (std::size_t i = 0; i < kept.size(); ++i) EXPECT_EQ(kept[i].id, options_.cases[i].id);
}

TEST_F(PipelineTest, LeavesNothingOfAnEarlierRunInTheFolder) {
  add_cases(2);
  script_.end_of = [](const cases::Case&, int) { return raised(); };
  run_all();
  fs::create_directories(options_.run_dir / "traces" / "notes");
  script_.end_of = [&](const cases::Case&, int) {
    EXPECT_FALSE(fs::exists(options_.run_dir / "run.json")) << "a killed run must not leave the old result";
    return completed();
  };
  options_.cases.pop_back();
  run_all();
  EXPECT_EQ(events().size(), 2U);
  EXPECT_TRUE(fs::exists(options_.run_dir / "traces" / "notes")) << "what moecheck did not write stays";
  fs::remove_all(options_.run_dir / "traces" / "notes");
  EXPECT_TRUE(kept_traces(options_.run_dir).value().empty());
}

TEST_F(PipelineTest, NamesARunFolderThatCannotBeMadeAndTheRemedy) {
  add_cases(1);
  for (const fs::path& place : {fs::path("/dev/full/run"), fs::path("/proc/no/run")}) {
    options_.run_dir = place;
    const auto run = run_cases(options_);
    ASSERT_FALSE(run) << place;
    EXPECT_EQ(run.error().code, ErrorCode::kIo);
    EXPECT_THAT(run.error().text(), testing::AllOf(HasSubstr(place.string()), HasSubstr("--out")));
  }
  EXPECT_TRUE(script_.seeds.empty());
}

TEST_F(PipelineTest, ReadsTheCasesOfAKilledRunFromItsEvents) {
  add_cases(3);
  run_all();
  fs::remove(options_.run_dir / "run.json");
  // Killed in the middle of the last line.
  fs::resize_file(options_.run_dir / "events.jsonl", fs::file_size(options_.run_dir / "events.jsonl") - 20);
  const record::RunRecord recovered = read_run(options_.run_dir).value();
  EXPECT_TRUE(recovered.interrupted);
  EXPECT_EQ(recovered.command, "moecheck run tests");
  ASSERT_EQ(recovered.cases.size(), 2U);
  EXPECT_EQ(recovered.cases[1].id, options_.cases[1].id);
}

TEST_F(PipelineTest, SaysWhichKeptTraceIsDamaged) {
  add_cases(1);
  options_.keep_traces = KeepTraces::kAll;
  run_all();
  for (const char* damage : {"", "[]", "{\"id\": 5, \"phase_failures\": []}", "{\"id\": \"a\"}",
                             "{\"id\": \"a\", \"phase_failures\": [], \"mismatch\": {\"rank\": 1}}"}) {
    ASSERT_TRUE(base::write_file_atomically(options_.run_dir / "traces" / "0" / "case.json", std::string_view(damage)));
    const auto kept = kept_traces(options_.run_dir);
    ASSERT_FALSE(kept) << damage;
    EXPECT_THAT(kept.error().text(), HasSubstr("traces/0/case.json"));
  }
}

// Files of this process may not grow beyond `bytes`: what a full disk looks like, without one.
void limit_file_size(rlim_t bytes) {
  ::signal(SIGXFSZ, SIG_IGN);
  const rlimit limit{bytes, bytes};
  ::setrlimit(RLIMIT_FSIZE, &limit);
}

// In processes of their own, since a limit cannot be raised again.
TEST_F(PipelineTest, LeavesNoHalfRecordOnAFullDisk) {
  add_cases(40);
  options_.checkpoint = folder_;   // none is written
  const auto run_on_a_full_disk = [&](rlim_t bytes) {
    limit_file_size(bytes);
    const auto run = run_cases(options_);
    const fs::path record = options_.run_dir / "run.json";
    const bool is_right = !run && run.error().code == ErrorCode::kIo && !fs::exists(record) && !fs::exists(record.string() + ".tmp");
    std::fprintf(stderr, "%s\n", run ? "no error" : run.error().text().c_str());
    std::_Exit(is_right ? 0 : 1);
  };
  EXPECT_EXIT(run_on_a_full_disk(2000), testing::ExitedWithCode(0), "events.jsonl: cannot write");
  // run.json is larger than events.jsonl, since it is indented.
  add_cases(1);
  ASSERT_TRUE(run());
  const auto size_of_events = fs::file_size(options_.run_dir / "events.jsonl");
  ASSERT_LT(size_of_events + 2000, fs::file_size(options_.run_dir / "run.json"));
  EXPECT_EXIT(run_on_a_full_disk(size_of_events + 2000), testing::ExitedWithCode(0), "run.json: cannot write: File too large");
}

TEST_F(PipelineTest, StopsWhenATraceCannotBeKept) {
  add_cases(3);
  std::ofstream(folder_ / "in_the_way");
  script_.end_of = [&](const cases::Case&, int) {
    fs::create_symlink(folder_ / "in_the_way", options_.run_dir / "traces");
    return raised();
  };
  const auto run = run_cases(options_);
  ASSERT_FALSE(run);
  EXPECT_THAT(run.error().text(), HasSubstr("traces"));
  EXPECT_EQ(script_.seeds.size(), 1U);
  EXPECT_FALSE(fs::exists(options_.run_dir / "run.json"));
}

TEST(Zoo, MissesACatchAtAnotherPlace) {
  subject::FaultInfo fault;
  fault.expected = {{"stage_diff", "output/y_TD", 1, 6}};
  record::CaseRecord one;
  record::Finding finding;
  finding.check = "stage_diff";
  finding.stage = "output/y_TD";
  finding.rank = 1;
  finding.expert = 6;
  one.findings = {finding};
  EXPECT_TRUE(missed_catches(fault, one).empty());
  one.findings[0].rank = 0;
  EXPECT_THAT(missed_catches(fault, one), testing::ElementsAre("stage_diff at output/y_TD, rank 1, expert 6"));
  one.findings[0] = finding;
  one.findings[0].cls = record::FindingClass::kNoise;
  EXPECT_EQ(missed_catches(fault, one).size(), 1U) << "noise catches nothing";
  one.findings[0] = finding;
  one.findings[0].expert.reset();
  EXPECT_EQ(missed_catches(fault, one).size(), 1U);
}

TEST(Zoo, WantsAControlToPassWithNoise) {
  subject::FaultInfo control;
  control.is_control = true;
  control.expected = {{"resume_determinism", "grad/x_TD", std::nullopt, std::nullopt}};
  record::CaseRecord one;
  one.verdict = record::Verdict::kPass;
  EXPECT_THAT(missed_catches(control, one), testing::ElementsAre("no noise: resume_determinism at grad/x_TD"));
  record::Finding finding;
  finding.check = "resume_determinism";
  finding.stage = "grad/x_TD";
  finding.cls = record::FindingClass::kNoise;
  one.findings = {finding};
  EXPECT_TRUE(missed_catches(control, one).empty());
  one.verdict = record::Verdict::kInconclusive;
  EXPECT_THAT(missed_catches(control, one), testing::ElementsAre("a control is no bug: the case must pass"));
  one.verdict = record::Verdict::kFail;
  one.findings[0].cls = record::FindingClass::kBug;
  EXPECT_EQ(missed_catches(control, one).size(), 2U) << "a bug is no noise";
}

TEST(Zoo, MissesAFaultThatNamesNoCheck) {
  EXPECT_EQ(missed_catches(subject::FaultInfo{}, record::CaseRecord{}).size(), 1U);
}

}  // namespace
}  // namespace moecheck::driver
