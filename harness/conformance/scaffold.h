// A working subject to begin with: the examples of this tree under another name, with what it takes to build and run them.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "harness/base/result.h"

namespace moecheck::conformance {

// A file as it lies in the tree, where the subject is called naive_ep and NaiveEp.
struct ScaffoldFile {
  std::string_view language;   // "python", "cpp"
  std::string_view name;
  std::string_view content;
};
std::span<const ScaffoldFile> scaffold_files();   // compiled in

// "my_layer" for a folder my-layer. Errors: kUsage for one whose name makes no identifier, or hides a package that the subject imports.
base::Result<std::string> subject_name(const std::filesystem::path& folder);

// Writes the files of a language, the subject named after the folder, which is made. Nothing is written over: if one of them is there already,
// none is written. Returns their paths. Errors: kUsage with the file that is there; kIo.
base::Result<std::vector<std::filesystem::path>> write_scaffold(std::string_view language, const std::filesystem::path& folder);

}  // namespace moecheck::conformance
