#include "harness/launch/scratch_dir.h"

#include <gmock/gmock.h>
#include <sys/wait.h>

#include "launch_fixture.h"

namespace moecheck::launch {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class ScratchDirTest : public TemporaryFolder {
 protected:
  ScratchDirTest() { ::setenv("MOECHECK_TMPDIR", folder_.c_str(), 1); }
  ~ScratchDirTest() override { ::unsetenv("MOECHECK_TMPDIR"); }

  // As ScratchDir names them, but for the process.
  fs::path folder_of(int pid, const std::string& host = host_in(ScratchDir::make().value().path().filename())) const {
    const fs::path folder = folder_ / ("moecheck-" + std::to_string(pid) + "@" + host + "-abcdef");
    fs::create_directories(folder / "w0" / "trace");
    return folder;
  }
  static std::string host_in(const std::string& name) { return name.substr(name.find('@') + 1, name.rfind('-') - name.find('@') - 1); }
};

TEST_F(ScratchDirTest, LiesWhereMoecheckTmpdirSays) {
  EXPECT_EQ(ScratchDir::make().value().path().parent_path(), folder_);
}

TEST_F(ScratchDirTest, IsRemovedWithAllThatIsInIt) {
  fs::path path;
  {
    const ScratchDir scratch = ScratchDir::make().value();
    path = scratch.path();
    fs::create_directories(path / "l0" / "p0");
    std::ofstream(path / "l0" / "file") << "bytes";
  }
  EXPECT_FALSE(fs::exists(path));
}

TEST_F(ScratchDirTest, IsRemovedOnceAlsoAfterAMove) {
  ScratchDir first = ScratchDir::make().value();
  const ScratchDir second = std::move(first);
  EXPECT_TRUE(fs::exists(second.path()));
}

TEST_F(ScratchDirTest, IsReadableByItsOwnerOnly) {
  const ScratchDir scratch = ScratchDir::make().value();
  EXPECT_EQ(fs::status(scratch.path()).permissions(), fs::perms::owner_all);
}

TEST_F(ScratchDirTest, RemovesTheFolderOfADriverThatIsGone) {
  const pid_t gone = ::fork();
  if (gone == 0) ::_exit(0);
  ::waitpid(gone, nullptr, 0);
  const fs::path orphan = folder_of(gone);
  const ScratchDir scratch = ScratchDir::make().value();
  EXPECT_FALSE(fs::exists(orphan));
}

TEST_F(ScratchDirTest, LeavesTheFolderOfALivingDriverAlone) {
  const fs::path other = folder_of(::getppid());
  const ScratchDir scratch = ScratchDir::make().value();
  EXPECT_TRUE(fs::exists(other));
}

TEST_F(ScratchDirTest, LeavesFoldersOfOtherHostsAloneWhoseProcessesItCannotSee) {
  const pid_t gone = ::fork();
  if (gone == 0) ::_exit(0);
  ::waitpid(gone, nullptr, 0);
  const fs::path other = folder_of(gone, "another");
  const ScratchDir scratch = ScratchDir::make().value();
  EXPECT_TRUE(fs::exists(other));
}

TEST_F(ScratchDirTest, LeavesFoldersOfOthersAlone) {
  for (const char* name : {"moecheck-notes", "moecheck-", "other"}) fs::create_directories(folder_ / name);
  const ScratchDir scratch = ScratchDir::make().value();
  for (const char* name : {"moecheck-notes", "moecheck-", "other"}) EXPECT_TRUE(fs::exists(folder_ / name)) << name;
}

TEST_F(ScratchDirTest, NamesTheRemedyIfItCannotBeMade) {
  ::setenv("MOECHECK_TMPDIR", (folder_ / "absent").c_str(), 1);
  const auto made = ScratchDir::make();
  ASSERT_FALSE(made);
  EXPECT_THAT(made.error().text(), testing::AllOf(HasSubstr("absent"), HasSubstr("No such file"), HasSubstr("MOECHECK_TMPDIR")));
}

}  // namespace
}  // namespace moecheck::launch
