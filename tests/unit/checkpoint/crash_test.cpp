// A save that is killed anywhere leaves the save before it, or itself, whole.
#include <iostream>
#include <set>

#include <gmock/gmock.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness/checkpoint/commit.h"
#include "tests/unit/checkpoint/checkpoint_fixture.h"
#include "tests/unit/checkpoint/system_calls.h"
#include "tests/unit/checkpoint/training_save.h"

namespace moecheck::checkpoint {
namespace {

namespace fs = std::filesystem;
using testing::Contains;

constexpr std::size_t kFewestPoints = 200;
constexpr int kSaveSteps = 7;

class Crash : public CheckpointFolders {
 protected:
  Crash() { EXPECT_TRUE(save(1)); }

  fs::path folder_of(int steps) const { return path("saves") / ("step-" + std::to_string(steps)); }

  // As the ranks and rank 0 of a case do it.
  bool save(int steps) const {
    if (!begin_staging(folder_of(steps))) return false;
    write_training_save(staging_of(folder_of(steps)), mesh_, steps);
    for (model::Dim rank = 0; rank < mesh_.world_size(); ++rank)
      if (!sync_file(staging_of(folder_of(steps)) / rank_file(rank))) return false;
    return commit(folder_of(steps)).ok();
  }

  // The calls of a save that nothing breaks off.
  std::vector<SystemCall> calls_of_a_save() const {
    std::vector<SystemCall> calls;
    {
      const Watch watch;
      EXPECT_TRUE(save(kSaveSteps));
      calls = watch.calls();
    }
    fs::remove_all(folder_of(kSaveSteps));
    return calls;
  }

  // True if a signal ended the child that saved, as it should.
  bool is_killed_at(std::size_t point) const {
    const pid_t child = ::fork();
    if (child == 0) {
      const Watch watch;
      die_at(point);
      ::_exit(save(kSaveSteps) ? 0 : 1);
    }
    int status = 0;
    return ::waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
  }

  // Steps of the save that is found, if it is whole and has the values of that step.
  testing::AssertionResult is_whole(std::int64_t& steps) const {
    const auto found = latest_save(path("saves"));
    if (!found) return testing::AssertionFailure() << found.error().text();
    const auto checkpoint = read_checkpoint(found->folder);
    if (!checkpoint) return testing::AssertionFailure() << checkpoint.error().text();
    steps = found->steps;
    std::size_t num_tensors = 0;
    for (model::Dim rank = 0; rank < mesh_.world_size(); ++rank)
      for (const LocalTensor& one : training_state(mesh_, rank, static_cast<int>(steps))) {
        num_tensors += rank == 0 ? 1 : 0;
        for (const HeldBox& box : held_boxes(one.cuts, one.global_shape, mesh_, rank))
          if (!base::same_bytes(box_of(*checkpoint, one.name, box.global), cut_out(one.tensor, box.local)))
            return testing::AssertionFailure() << one.name << " is not that of step " << steps;
      }
    if (num_tensors != checkpoint->tensors.size()) return testing::AssertionFailure() << checkpoint->tensors.size() << " tensors";
    return testing::AssertionSuccess();
  }

  const model::Mesh mesh_ = model::Mesh::parse("dp=2,ep=2").value();
};

TEST_F(Crash, AtAnyPointLeavesTheOldSaveOrTheNewOneWhole) {
  const std::vector<SystemCall> calls = calls_of_a_save();
  const std::size_t num_points = kPointsOfACall * calls.size();
  ASSERT_GE(num_points, kFewestPoints);
  std::map<std::int64_t, int> num_found;
  for (std::size_t point = 0; point < num_points; ++point) {
    const SystemCall& call = calls[point / kPointsOfACall];
    SCOPED_TRACE(testing::Message() << "point " << point << ", " << call.name << " of " << call.path);
    ASSERT_TRUE(is_killed_at(point));
    std::int64_t steps = 0;
    ASSERT_TRUE(is_whole(steps));
    ++num_found[steps];
    // What is left does not keep the next try from a whole save.
    if (steps == 1) {
      ASSERT_TRUE(save(kSaveSteps));
      ASSERT_TRUE(is_whole(steps));
    }
    ASSERT_EQ(steps, kSaveSteps);
    fs::remove_all(folder_of(kSaveSteps));
  }
  std::cout << num_points << " crashes: " << num_found[1] << " left the old save, " << num_found[kSaveSteps] << " the new one\n";
  EXPECT_GT(num_found[1], 0);
  EXPECT_GT(num_found[kSaveSteps], 0);
  EXPECT_EQ(num_found.size(), 2U);
}

// A process that is killed leaves what it wrote to the system; a machine that stops leaves only what was synced.
TEST_F(Crash, FindsEveryByteSyncedBeforeTheSaveIsRenamed) {
  const std::vector<SystemCall> calls = calls_of_a_save();
  const std::string staging = staging_of(folder_of(kSaveSteps)).string();
  std::set<std::string> unsynced;
  for (const SystemCall& call : calls) {
    if (call.name == "rename" && call.path == staging) break;
    // Files are written aside: the new name is the old one less its ending, and the folder has changed.
    const std::string renamed = call.name == "rename" ? call.path.substr(0, call.path.size() - 4) : call.path;
    if (call.name == "fsync") unsynced.erase(call.path);
    if (call.name == "write") unsynced.insert(call.path);
    if (call.name == "rename" && unsynced.erase(call.path) > 0) unsynced.insert(renamed);
    if (call.name == "open" || call.name == "rename") unsynced.insert(staging);
  }
  EXPECT_THAT(unsynced, testing::IsEmpty());
  const auto renamed = std::ranges::find(calls, SystemCall{"rename", staging});
  ASSERT_NE(renamed, calls.end());
  EXPECT_THAT(std::vector(renamed, calls.end()), Contains(SystemCall{"fsync", path("saves").string()}));
}

TEST_F(Crash, FindsTheFoldersThatASaveMadeSyncedToo) {
  fs::create_directories(path("run"));
  const Watch watch;
  ASSERT_TRUE(begin_staging(path("run/life/saves/step-1")));
  for (const char* above : {"run", "run/life"}) EXPECT_THAT(watch.calls(), Contains(SystemCall{"fsync", path(above).string()}));
}

}  // namespace
}  // namespace moecheck::checkpoint
