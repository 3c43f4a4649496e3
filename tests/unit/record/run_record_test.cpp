#include "harness/record/run_record.h"

#include <cmath>
#include <cstdlib>
#include <filesystem>

#include <gtest/gtest.h>

#include "harness/base/files.h"
#include "tests/unit/record/full_record.h"

namespace moecheck::record {
namespace {

RunRecord run_of(const std::vector<Verdict>& verdicts) {
  RunRecord run;
  for (const Verdict verdict : verdicts) {
    CaseRecord one;
    one.verdict = verdict;
    run.cases.push_back(one);
  }
  return run;
}

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "moecheck-record-XXXXXX").string();
    path_ = mkdtemp(pattern.data());
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

TEST(RunRecord, SurvivesTheRoundTripThroughJsonWithEveryField) {
  const auto json = to_json(full_record());
  const auto back = run_record_from_json(json);
  ASSERT_TRUE(back.ok()) << back.error().text();
  EXPECT_EQ(to_json(*back), json);
  EXPECT_EQ(to_json(*back).dump(), json.dump()) << "also the order of keys";
}

TEST(RunRecord, ReadsBackTheValuesAndNotOnlyTheSameJson) {
  const auto back = run_record_from_json(to_json(full_record()));
  ASSERT_TRUE(back.ok());
  const CaseRecord& one = back->cases.at(0);
  EXPECT_EQ(one.config, (std::vector<std::pair<std::string, std::string>>{{"seed", "7"}, {"impl", "ep_allreduce"}}));
  EXPECT_EQ(one.verdict, Verdict::kFail);
  EXPECT_EQ(one.findings.at(0).expert, 5);
  EXPECT_EQ(one.findings.at(0).slot, 2);
  EXPECT_EQ(one.findings.at(0).life, "control 1");
  EXPECT_EQ(one.findings.at(0).step, 2);
  EXPECT_EQ(one.findings.at(1).step, std::nullopt);
  EXPECT_EQ(one.findings.at(1).rank, std::nullopt);
  EXPECT_EQ(one.findings.at(1).used, std::nullopt);
  EXPECT_EQ(one.experts.at(0).holds, "expert 3");
  EXPECT_EQ(one.experts.at(0).wrong_rows, 4);
  EXPECT_FALSE(one.experts.at(1).is_local);
  EXPECT_TRUE(back->interrupted);
}

TEST(RunRecord, KeepsNanAndInfinitiesThroughText) {
  const auto parsed = base::parse_json(to_json(full_record()).dump(), "test");
  ASSERT_TRUE(parsed.ok());
  const auto back = run_record_from_json(*parsed);
  ASSERT_TRUE(back.ok());
  const Finding& finding = back->cases.at(0).findings.at(0);
  EXPECT_TRUE(std::isnan(finding.used.value()));
  EXPECT_EQ(finding.measured.value(), std::numeric_limits<double>::infinity());
  EXPECT_EQ(finding.got.value(), -std::numeric_limits<double>::infinity());
  EXPECT_TRUE(std::isnan(back->cases.at(0).stages.at(1).measured));
}

TEST(RunRecord, IsWrittenToTheRunFolderAndReadFromIt) {
  const TemporaryFolder folder;
  ASSERT_TRUE(write_run_record(folder.path(), full_record()).ok());
  const auto back = read_run_record(folder.path());
  ASSERT_TRUE(back.ok()) << back.error().text();
  EXPECT_EQ(to_json(*back), to_json(full_record()));
}

TEST(RunRecord, IsWrittenEvenIfASubjectSendsBytesThatAreNoUtf8) {
  const TemporaryFolder folder;
  RunRecord run = full_record();
  run.cases[0].reason = "bad \xff\xc0 bytes";
  ASSERT_TRUE(write_run_record(folder.path(), run).ok());
  const auto back = read_run_record(folder.path());
  ASSERT_TRUE(back.ok()) << back.error().text();
  EXPECT_TRUE(back->cases.at(0).reason.starts_with("bad \xef\xbf\xbd"));
}

TEST(RunRecord, NamesTheFileThatIsNoRecord) {
  const TemporaryFolder folder;
  ASSERT_TRUE(base::write_file_atomically(folder.path() / "run.json", "{\"schema\": 1}").ok());
  const auto back = read_run_record(folder.path());
  ASSERT_FALSE(back.ok());
  EXPECT_EQ(back.error().code, base::ErrorCode::kDamaged);
  EXPECT_NE(back.error().text().find("run.json"), std::string::npos);
  EXPECT_NE(back.error().text().find("cases"), std::string::npos);
}

TEST(RunRecord, RefusesAnotherSchema) {
  auto json = to_json(full_record());
  json["schema"] = 2;
  const auto back = run_record_from_json(json);
  ASSERT_FALSE(back.ok());
  EXPECT_EQ(back.error().code, base::ErrorCode::kDamaged);
}

TEST(RunRecord, ReadsAnUnknownVerdictAsUntestedSoThatItCountsAsAFailure) {
  auto json = to_json(run_of({Verdict::kPass}));
  json["cases"][0]["verdict"] = "splendid";
  const auto back = run_record_from_json(json);
  ASSERT_TRUE(back.ok());
  EXPECT_EQ(back->cases.at(0).verdict, Verdict::kUntested);
  EXPECT_EQ(back->exit_code(), kExitFailed);
}

TEST(RunRecord, SummaryNamesPassFirstAndThenOnlyVerdictsThatOccur) {
  EXPECT_EQ(run_of({Verdict::kVacuous, Verdict::kFail, Verdict::kPass, Verdict::kFail}).summary_text(),
            "1 pass, 2 fail, 1 vacuous");
  EXPECT_EQ(run_of({}).summary_text(), "0 pass");
}

struct ExitRow {
  std::vector<Verdict> verdicts;
  ExitCode expected;
};

TEST(ExitCodes, FollowTheTableOfTheDesign) {
  using V = Verdict;
  const std::vector<ExitRow> rows = {
      {{}, kExitNothing},
      {{V::kPass}, kExitGood},
      {{V::kXfail}, kExitGood},
      {{V::kPass, V::kSkipped, V::kUnsupported, V::kXfail}, kExitGood},
      {{V::kPass, V::kFail}, kExitFailed},
      {{V::kPass, V::kCrash}, kExitFailed},
      {{V::kPass, V::kTimeout}, kExitFailed},
      {{V::kPass, V::kXpass}, kExitFailed},
      {{V::kPass, V::kVacuous}, kExitFailed},
      {{V::kPass, V::kFlaky}, kExitFailed},
      {{V::kPass, V::kUntested}, kExitFailed},
      {{V::kPass, V::kError}, kExitCouldNotTest},
      {{V::kUnsupported}, kExitCouldNotTest},
      {{V::kSkipped, V::kUnsupported}, kExitCouldNotTest},
      {{V::kPass, V::kInconclusive}, kExitInconclusive},
      {{V::kInconclusive}, kExitInconclusive},
      {{V::kError, V::kFail, V::kInconclusive}, kExitFailed},
      {{V::kError, V::kInconclusive}, kExitCouldNotTest},
  };
  for (const ExitRow& row : rows)
    EXPECT_EQ(run_of(row.verdicts).exit_code(), row.expected) << run_of(row.verdicts).summary_text();
}

TEST(ExitCodes, SayInterruptedWhateverTheCasesWere) {
  for (const auto& verdicts : std::vector<std::vector<Verdict>>{{}, {Verdict::kPass}, {Verdict::kFail}}) {
    RunRecord run = run_of(verdicts);
    run.interrupted = true;
    EXPECT_EQ(run.exit_code(), kExitInterrupted);
  }
}

}  // namespace
}  // namespace moecheck::record
