#include "harness/conformance/scaffold.h"

#include <algorithm>
#include <array>
#include <cctype>

#include <fmt/format.h>

#include "harness/base/files.h"

namespace moecheck::conformance {
namespace {

namespace fs = std::filesystem;
using base::Error;
using base::ErrorCode;

constexpr std::string_view kName = "naive_ep";
constexpr std::string_view kClass = "NaiveEp";
constexpr std::array<std::string_view, 4> kTaken = {"moecheck", "torch", "numpy", "test"};

std::string replaced(std::string text, std::string_view from, std::string_view to) {
  for (std::size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size())) text.replace(at, from.size(), to);
  return text;
}

// my_layer -> MyLayer
std::string class_name(const std::string& name) {
  std::string text;
  bool is_first = true;
  for (const char c : name) {
    if (c != '_') text += is_first ? static_cast<char>(std::toupper(static_cast<unsigned char>(c))) : c;
    is_first = c == '_';
  }
  return text;
}

}  // namespace

base::Result<std::string> subject_name(const fs::path& folder) {
  const std::string last = fs::weakly_canonical(folder).filename();
  std::string name;
  for (const char c : last)
    name += std::isalnum(static_cast<unsigned char>(c)) != 0 ? static_cast<char>(std::tolower(static_cast<unsigned char>(c))) : '_';
  const bool is_identifier = !name.empty() && std::isalpha(static_cast<unsigned char>(name[0])) != 0;
  if (!is_identifier || std::ranges::find(kTaken, name) != kTaken.end())
    return Error{ErrorCode::kUsage,
                 fmt::format("the subject is called after its folder, and '{}' is no name for it; "
                             "use letters, digits and _, as in my_layer", last),
                 folder.string()};
  return name;
}

base::Result<std::vector<fs::path>> write_scaffold(std::string_view language, const fs::path& folder) {
  auto name = subject_name(folder);
  if (!name) return name.error();
  std::vector<std::pair<fs::path, std::string_view>> files;
  for (const ScaffoldFile& file : scaffold_files())
    if (file.language == language) files.emplace_back(folder / replaced(std::string(file.name), kName, *name), file.content);
  MOECHECK_REQUIRE(!files.empty(), std::string(language));
  for (const auto& [path, content] : files)
    if (fs::exists(fs::symlink_status(path)))
      return Error{ErrorCode::kUsage, "is there already, and nothing is written over; name another folder", path.string()};
  if (auto made = base::make_folders(folder); !made) return made.error();
  std::vector<fs::path> written;
  for (const auto& [path, content] : files) {
    const std::string text = replaced(replaced(std::string(content), kName, *name), kClass, class_name(*name));
    if (auto done = base::write_file_atomically(path, text); !done) return done.error();
    written.push_back(path);
  }
  return written;
}

}  // namespace moecheck::conformance
