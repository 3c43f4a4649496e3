// Saves that are complete or not there: written aside, synced, renamed.
#pragma once

#include <cstdint>
#include <filesystem>

#include "harness/base/result.h"

namespace moecheck::checkpoint {

// Where a save is written until it is complete: FOLDER.tmp.
std::filesystem::path staging_of(const std::filesystem::path& folder);

// An empty staging folder; what a save that broke off left there is removed.
// Errors: kIo; kUsage if the save itself is there already, since nobody may lose it.
base::Status begin_staging(const std::filesystem::path& folder);

// The file's bytes are on disk when it returns. Errors: kIo with the path.
base::Status sync_file(const std::filesystem::path& path);

// Syncs all files of the staging folder and the folder, renames it, and syncs the folder above. Before it returns a crash leaves
// the staging folder or the save, never a part of the save.
// Errors: kIo; the save is not there then.
base::Status commit(const std::filesystem::path& folder);

struct FoundSave {
  std::filesystem::path folder;
  std::int64_t steps = 0;
};

// The newest save below `root`: of its folders step-<n> the one with the largest n. Folders of broken saves are none.
// Whether it is sound is for read_checkpoint() to say: a damaged one is refused, not passed over.
// Errors: kIo if there is none.
base::Result<FoundSave> latest_save(const std::filesystem::path& root);

}  // namespace moecheck::checkpoint
