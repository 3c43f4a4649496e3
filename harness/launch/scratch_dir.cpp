#include "harness/launch/scratch_dir.h"

#include <array>
#include <cerrno>
#include <charconv>
#include <climits>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
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

// Few letters, since sockets lie in the folder and their paths must be short.
std::string host_tag() {
  std::array<char, HOST_NAME_MAX + 1> name{};
  ::gethostname(name.data(), name.size() - 1);
  return fmt::format("{:08x}", static_cast<std::uint32_t>(std::hash<std::string_view>()(name.data())));
}

// moecheck-<pid>@<host>-xxxxxx of a driver that was killed: nobody else would clean up. The folder may be shared with other hosts, whose
// processes have numbers of their own.
void remove_orphans(const fs::path& parent) {
  std::error_code code;
  for (const auto& entry : fs::directory_iterator(parent, code)) {
    const std::string name = entry.path().filename();
    if (!name.starts_with(kPrefix)) continue;
    int pid = 0;
    const auto [end, _] = std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), pid);
    const bool is_of_this_host = std::string(end).starts_with("@" + host_tag() + "-");
    if (pid > 0 && is_of_this_host && ::kill(pid, 0) != 0 && errno == ESRCH) fs::remove_all(entry.path(), code);
  }
}

}  // namespace

base::Result<ScratchDir> ScratchDir::make() {
  const fs::path parent = parent_folder();
  remove_orphans(parent);
  std::string pattern = (parent / fmt::format("{}{}@{}-XXXXXX", kPrefix, ::getpid(), host_tag())).string();
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
