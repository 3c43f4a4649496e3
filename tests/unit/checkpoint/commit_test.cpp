// Saves that are complete or not there, and which of them is the newest.
#include <gmock/gmock.h>

#include "harness/checkpoint/commit.h"
#include "tests/unit/checkpoint/checkpoint_fixture.h"

namespace moecheck::checkpoint {
namespace {

namespace fs = std::filesystem;
using base::ErrorCode;
using testing::AllOf;
using testing::HasSubstr;

class Commit : public CheckpointFolders {};

TEST_F(Commit, StagesBesideTheSave) {
  EXPECT_EQ(staging_of("saves/step-3"), "saves/step-3.tmp");
  EXPECT_EQ(staging_of("saves/step-3/"), "saves/step-3.tmp");
}

TEST_F(Commit, ShowsTheSaveOnlyOnceItIsComplete) {
  ASSERT_TRUE(begin_staging(path("saves/step-1")));
  write_text("saves/step-1.tmp/a.txt", "content");
  EXPECT_FALSE(fs::exists(path("saves/step-1")));
  const auto committed = commit(path("saves/step-1"));
  ASSERT_TRUE(committed) << committed.error().text();
  EXPECT_EQ(read_text("saves/step-1/a.txt"), "content");
  EXPECT_FALSE(fs::exists(path("saves/step-1.tmp")));
}

TEST_F(Commit, CommitsFoldersInTheSave) {
  ASSERT_TRUE(begin_staging(path("step-1")));
  write_text("step-1.tmp/more/b.txt", "deep");
  ASSERT_TRUE(commit(path("step-1")));
  EXPECT_EQ(read_text("step-1/more/b.txt"), "deep");
}

TEST_F(Commit, RemovesWhatABrokenSaveLeft) {
  write_text("step-2.tmp/rank7.safetensors", "half");
  write_text("step-2.tmp/deeper/x", "half");
  ASSERT_TRUE(begin_staging(path("step-2")));
  EXPECT_TRUE(fs::is_directory(path("step-2.tmp")));
  EXPECT_TRUE(fs::is_empty(path("step-2.tmp")));
}

TEST_F(Commit, NeverReplacesASave) {
  write_text("step-2/precious", "old");
  const auto begun = begin_staging(path("step-2"));
  ASSERT_FALSE(begun);
  EXPECT_EQ(begun.error().code, ErrorCode::kUsage);
  EXPECT_THAT(begun.error().text(), AllOf(HasSubstr(path("step-2").string()), HasSubstr("is there already"), HasSubstr("name another folder")));
  EXPECT_FALSE(fs::exists(path("step-2.tmp")));
  // One that came while another was staged: neither an empty one nor a file is replaced either.
  write_text("step-2.tmp/new", "new");
  EXPECT_EQ(commit(path("step-2")).error().code, ErrorCode::kIo);
  EXPECT_EQ(read_text("step-2/precious"), "old");
  EXPECT_EQ(read_text("step-2.tmp/new"), "new");
  fs::remove(path("step-2/precious"));
  EXPECT_THAT(commit(path("step-2")).error().text(), HasSubstr("File exists"));
}

TEST_F(Commit, SaysWhichPathCannotBeSynced) {
  const auto synced = sync_file(path("nowhere"));
  ASSERT_FALSE(synced);
  EXPECT_EQ(synced.error().code, ErrorCode::kIo);
  EXPECT_THAT(synced.error().text(), AllOf(HasSubstr("nowhere"), HasSubstr("No such file")));
  const auto committed = commit(path("step-5"));
  ASSERT_FALSE(committed);
  EXPECT_THAT(committed.error().text(), HasSubstr("step-5.tmp"));
}

class LatestSave : public CheckpointFolders {};

TEST_F(LatestSave, IsThatOfTheMostStepsNotTheLastByName) {
  for (const char* name : {"step-9", "step-10", "step-2"}) fs::create_directories(path(name));
  const auto found = latest_save(root_);
  ASSERT_TRUE(found) << found.error().text();
  EXPECT_EQ(found->folder, path("step-10"));
  EXPECT_EQ(found->steps, 10);
}

TEST_F(LatestSave, IsNoBrokenSaveAndNothingOfAnotherName) {
  for (const char* name : {"step-2", "step-3.tmp", "step-", "step-4x", "step-+5", "step--6", "step-07", "step-99999999999999999999", "xstep-8", "step-9 "})
    fs::create_directories(path(name));
  write_text("step-11", "a file");
  EXPECT_EQ(latest_save(root_)->folder, path("step-2"));
}

TEST_F(LatestSave, MayBeOfNoStep) {
  fs::create_directories(path("step-0"));
  EXPECT_EQ(latest_save(root_)->steps, 0);
}

TEST_F(LatestSave, SaysWhatToDoWhereThereIsNone) {
  fs::create_directories(path("step-3.tmp"));
  const auto none = latest_save(root_);
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code, ErrorCode::kIo);
  EXPECT_THAT(none.error().text(), AllOf(HasSubstr(root_.string()), HasSubstr("name the folder"), HasSubstr("step-3.tmp is of a save that broke off")));
  EXPECT_EQ(latest_save(path("nowhere")).error().code, ErrorCode::kIo);
}

TEST_F(LatestSave, IsRefusedWhereItIsDamagedAndNotPassedOver) {
  write_sharded("step-1");
  write_sharded("step-2");
  fs::remove(path("step-2/rank1.safetensors"));
  EXPECT_EQ(latest_save(root_)->folder, path("step-2"));
  EXPECT_EQ(read_checkpoint(latest_save(root_)->folder).error().code, ErrorCode::kDamaged);
}

}  // namespace
}  // namespace moecheck::checkpoint
