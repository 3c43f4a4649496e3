// Parts of survey(): one function a form. Each fills in what it finds.
#pragma once

#include "harness/checkpoint/checkpoint.h"

namespace moecheck::checkpoint {

// Names of files in the folder that end so, sorted.
std::vector<std::string> files_ending(const std::filesystem::path& folder, std::string_view ending);

const StoredFile* find_file(const Checkpoint& checkpoint, const std::string& name);

// Lists the file, and opens it. False, and a problem, if it cannot be read.
bool open_file(Checkpoint& checkpoint, const std::string& name);

// Takes every tensor of the opened files for a whole one; a name in two files is a problem.
void take_whole_tensors(Checkpoint& checkpoint);

void survey_sharded(Checkpoint& checkpoint);
void survey_indexed(Checkpoint& checkpoint, const std::string& index_file);
void survey_folder(Checkpoint& checkpoint);

}  // namespace moecheck::checkpoint
