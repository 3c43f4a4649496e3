// Disks that are full: nothing half-written is taken for a result.
#include <gmock/gmock.h>

#include "cli_fixture.h"

namespace moecheck::cli {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;

// A tmpfs of that size at folder_/tiny, for this one line: it goes with the line's mount namespace. What lies there at the end is
// copied to folder_/left.
class FullDisk : public CliTest {
 protected:
  void SetUp() override {
    fs::create_directories(folder_ / "tiny");
    fs::create_directories(folder_ / "left");
    if (on_tiny_disk("64k", "true").exit_code != 0) GTEST_SKIP() << "no mount namespaces here; LeavesNoHalfRecordWhenFilesCannotGrow does without";
  }
  Outcome on_tiny_disk(const std::string& size, const std::string& line) const {
    const std::string namespaces = ::geteuid() == 0 ? "unshare -m" : "unshare -rm";
    return shell(fmt::format("{} sh -c 'mount -t tmpfs -o size={} none tiny && {{ {}; code=$?; cp -r tiny/. left; exit $code; }}'", namespaces, size, line));
  }
  std::vector<std::string> left() const {
    std::vector<std::string> files;
    for (const auto& entry : fs::recursive_directory_iterator(folder_ / "left")) files.push_back(entry.path().filename());
    return files;
  }
};

const std::string kRun = "moecheck run --case \"" + std::string(kCase) + "\"";

TEST_F(FullDisk, OfTheRunFolderLeavesNoRecord) {
  // The first case's events fit, the reports or the record do not.
  const Outcome full = on_tiny_disk("12k", kRun + " --out tiny/run");
  EXPECT_EQ(full.exit_code, 6) << full.out;
  EXPECT_THAT(full.err, AllOf(HasSubstr("No space left on device"), HasSubstr("--out")));
  EXPECT_THAT(left(), testing::Not(testing::Contains("run.json")));
  EXPECT_THAT(left(), testing::Not(testing::Contains(HasSubstr(".tmp"))));
}

TEST_F(FullDisk, OfTheScratchFolderIsNoVerdictOnTheSubject) {
  // Too small for the checkpoint, and too small for the traces.
  for (const auto& [size, file] : {std::pair("64k", "model.safetensors"), std::pair("1000k", "rank")}) {
    const Outcome full = on_tiny_disk(size, "MOECHECK_TMPDIR=$PWD/tiny " + kRun + " --json --out run");
    EXPECT_EQ(full.exit_code, 6) << size << full.err;
    const base::Json record = record_of();
    EXPECT_EQ(record["summary"]["error"], 1) << size;
    EXPECT_THAT(record["cases"][0]["reason"].get<std::string>(), AllOf(HasSubstr(file), HasSubstr("No space left on device"), HasSubstr("MOECHECK_TMPDIR")));
    EXPECT_THAT(left(), testing::IsEmpty()) << "the scratch folder is removed";
  }
}

TEST_F(FullDisk, OfTheDoctorIsTold) {
  const Outcome full = on_tiny_disk("64k", "MOECHECK_TMPDIR=$PWD/tiny moecheck doctor");
  EXPECT_EQ(full.exit_code, 6);
  EXPECT_THAT(full.out, HasSubstr("MiB free"));
}

// No file may grow beyond some blocks of 512 bytes, in any process of the line.
TEST_F(CliTest, LeavesNoHalfRecordWhenFilesCannotGrow) {
  const std::string limited = "trap \"\" XFSZ; ulimit -f 8; exec ";
  const Outcome checkpoint = shell(limited + kRun + " --out run");
  EXPECT_EQ(checkpoint.exit_code, 6) << checkpoint.out << checkpoint.err;
  EXPECT_FALSE(fs::exists(folder_ / "run" / "run.json.tmp"));
  EXPECT_TRUE(!fs::exists(folder_ / "run" / "run.json") || record_of()["summary"]["error"] == 1);
}

TEST_F(CliTest, NamesARunFolderThatCannotBeWritten) {
  const Outcome full = moecheck({"run", kCase, "--out", "/dev/full/run"});
  EXPECT_EQ(full.exit_code, 6);
  EXPECT_THAT(full.err, AllOf(HasSubstr("/dev/full/run"), HasSubstr("--out")));
}

}  // namespace
}  // namespace moecheck::cli
