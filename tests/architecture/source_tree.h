// The files of the checkout.
#pragma once

#include <string>
#include <vector>

#include "tests/architecture/rules.h"

namespace moecheck::architecture {

// Files of the project, sorted by path: everything below the folders that hold sources, tests, scenarios, scripts and docs,
// and the files at the root, without what a build or a run makes.
const std::vector<SourceFile>& source_tree();

// C++ among them.
std::vector<SourceFile> cpp_files();

// Requires: the file is there.
std::string text_of(const std::string& path);

}  // namespace moecheck::architecture
