// Parts of survey(): one function a form. Each fills in what it finds.
#pragma once

#include <memory>

#include "harness/base/files.h"
#include "harness/checkpoint/checkpoint.h"

namespace moecheck::checkpoint {

// Names of files in the folder that end so, sorted.
std::vector<std::string> files_ending(const std::filesystem::path& folder, std::string_view ending);

const StoredFile* find_file(const Checkpoint& checkpoint, const std::string& name);

// Lists the file, and opens it; its bytes, of which its tensors are views. None, and a problem, if it cannot be read.
std::shared_ptr<const base::MappedFile> open_file(Checkpoint& checkpoint, const std::string& name);

// Takes every tensor of the opened files for a whole one; a name in two files is a problem.
void take_whole_tensors(Checkpoint& checkpoint);

void survey_sharded(Checkpoint& checkpoint);
void survey_indexed(Checkpoint& checkpoint, const std::string& index_file);
void survey_folder(Checkpoint& checkpoint);

}  // namespace moecheck::checkpoint
