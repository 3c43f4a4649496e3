#include "harness/launch/scratch_dir.h"

#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <unistd.h>

#include <fmt/format.h>

namespace moecheck::launch {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = "moecheck-";

fs::path parent_folder() {
  if (const char* named = std::getenv("MOECHECK_TMPDIR"); named != nullptr && *named != '\0') return named;
  if (::access("/dev/shm", W_OK) == 0) return "/dev/shm";
  return fs::temp_directory_path();
}

// moecheck-<pid>-xxxxxx of a driver that was killed: nobody else would clean up.
void remove_orphans(const fs::path& parent) {
  std::error_code code;
  for (const auto& entry : fs::directory_iterator(parent, code)) {
    const std::string name = entry.path().filename();
    if (!name.starts_with(kPrefix)) continue;
    int pid = 0;
    std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), pid);
    if (pid > 0 && ::kill(pid, 0) != 0 && errno == ESRCH) fs::remove_all(entry.path(), code);
  }
}

}  // namespace

base::Result<ScratchDir> ScratchDir::make() {
  const fs::path parent = parent_folder();
  remove_orphans(parent);
  std::string pattern = (parent / fmt::format("{}{}-XXXXXX", kPrefix, ::getpid())).string();
  if (::mkdtemp(pattern.data()) == nullptr)
    return base::Error{base::ErrorCode::kIo, fmt::format("cannot make a scratch folder: {}; name a writable one with MOECHECK_TMPDIR", std::strerror(errno)),
                       parent.string()};
  return ScratchDir(pattern);
}

ScratchDir::ScratchDir(ScratchDir&& other) noexcept : path_(std::exchange(other.path_, {})) {}

ScratchDir::~ScratchDir() {
  std::error_code code;
  if (!path_.empty()) fs::remove_all(path_, code);
}

}  // namespace moecheck::launch
