#include "tests/architecture/source_tree.h"

#include <algorithm>
#include <array>
#include <filesystem>

#include "harness/base/files.h"

namespace moecheck::architecture {
namespace {

namespace fs = std::filesystem;

constexpr std::array kFolders = {"harness", "reference", "reports", "parallel_impls", "tests", "ci", "scenarios", "schema", "docs"};
constexpr std::array kTextEndings = {".h", ".cpp", ".in", ".txt", ".cmake", ".yaml", ".yml", ".json", ".md", ".py", ".sh", ".css", ""};

bool is_text(const fs::path& path) {
  return path.string().find("/__pycache__/") == std::string::npos &&
         std::ranges::find(kTextEndings, path.extension().string()) != kTextEndings.end();
}

std::vector<SourceFile> read_tree() {
  const fs::path root = MOECHECK_SOURCE_DIR;
  std::vector<fs::path> paths;
  for (const auto& entry : fs::directory_iterator(root))
    if (entry.is_regular_file() && is_text(entry.path())) paths.push_back(entry.path());
  for (const char* folder : kFolders) {
    if (!fs::is_directory(root / folder)) continue;
    for (const auto& entry : fs::recursive_directory_iterator(root / folder))
      if (entry.is_regular_file() && is_text(entry.path())) paths.push_back(entry.path());
  }
  std::ranges::sort(paths);
  std::vector<SourceFile> files;
  for (const fs::path& path : paths) files.push_back({path.lexically_relative(root).generic_string(), base::read_file(path).value()});
  return files;
}

}  // namespace

const std::vector<SourceFile>& source_tree() {
  static const std::vector<SourceFile> files = read_tree();
  return files;
}

std::vector<SourceFile> cpp_files() {
  std::vector<SourceFile> files;
  for (const SourceFile& file : source_tree())
    if (is_header(file.path) || is_source(file.path)) files.push_back(file);
  return files;
}

std::string text_of(const std::string& path) {
  const auto found = std::ranges::find(source_tree(), path, &SourceFile::path);
  MOECHECK_REQUIRE(found != source_tree().end(), path + " is missing");
  return found->text;
}

}  // namespace moecheck::architecture
