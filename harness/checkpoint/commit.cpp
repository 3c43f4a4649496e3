#include "harness/checkpoint/commit.h"

#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <optional>
#include <string>
#include <string_view>
#include <unistd.h>

#include <fmt/format.h>

#include "harness/base/files.h"

namespace moecheck::checkpoint {

namespace fs = std::filesystem;

namespace {

using base::Error;
using base::ErrorCode;

constexpr std::string_view kStagingEnding = ".tmp";
constexpr std::string_view kSavePrefix = "step-";

Error io_error(const fs::path& path, std::string_view doing, int reason) {
  return {ErrorCode::kIo, fmt::format("cannot {}: {}", doing, std::strerror(reason)), path.string()};
}

// Files and folders are synced alike.
base::Status sync_path(const fs::path& path, int flags) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | flags);
  if (fd < 0) return io_error(path, "open", errno);
  const int reason = ::fsync(fd) == 0 ? 0 : errno;
  ::close(fd);
  if (reason != 0) return io_error(path, "sync", reason);
  return base::Ok{};
}

base::Status sync_folder(const fs::path& path) { return sync_path(path, O_DIRECTORY); }

fs::path folder_above(const fs::path& folder) {
  const fs::path above = folder.parent_path();
  return above.empty() ? fs::path(".") : above;
}

// Everything below, then the folder itself.
base::Status sync_tree(const fs::path& folder) {
  std::error_code code;
  for (fs::recursive_directory_iterator entry(folder, code), end; !code && entry != end; entry.increment(code)) {
    const fs::file_status status = entry->symlink_status(code);
    if (code) break;
    base::Status synced = base::Ok{};
    if (fs::is_regular_file(status)) synced = sync_file(entry->path());
    if (fs::is_directory(status)) synced = sync_folder(entry->path());
    if (!synced) return synced;
  }
  if (code) return io_error(folder, "list", code.value());
  return sync_folder(folder);
}

// Makes the folder and those above it that are not there yet; their names are on disk when it returns.
base::Status make_synced(const fs::path& folder) {
  std::error_code code;
  if (fs::exists(folder, code)) return base::Ok{};
  const fs::path above = folder_above(folder);
  if (auto made = make_synced(above); !made) return made;
  if (auto made = base::make_folders(folder); !made) return made;
  return sync_folder(above);
}

// The n of "step-<n>", written as a save's name is: no sign, no leading zeros, nothing behind.
std::optional<std::int64_t> steps_of(const std::string& name) {
  if (!name.starts_with(kSavePrefix)) return std::nullopt;
  std::int64_t steps = 0;
  const char* const end = name.data() + name.size();
  const auto parsed = std::from_chars(name.data() + kSavePrefix.size(), end, steps);
  if (parsed.ec != std::errc{} || parsed.ptr != end || steps < 0) return std::nullopt;
  if (name != fmt::format("{}{}", kSavePrefix, steps)) return std::nullopt;
  return steps;
}

}  // namespace

fs::path staging_of(const fs::path& folder) {
  // A path that ends in '/' names no last part to append to.
  const fs::path named = folder.has_filename() ? folder : folder.parent_path();
  return named.string() + std::string(kStagingEnding);
}

base::Status begin_staging(const fs::path& folder) {
  std::error_code code;
  if (fs::exists(fs::symlink_status(folder, code)))
    return Error{ErrorCode::kUsage, "is there already, and a save never replaces another; remove it or name another folder", folder.string()};
  const fs::path staging = staging_of(folder);
  fs::remove_all(staging, code);
  if (code) return io_error(staging, "remove what a save left that broke off", code.value());
  return make_synced(staging);
}

base::Status sync_file(const fs::path& path) { return sync_path(path, 0); }

base::Status commit(const fs::path& folder) {
  const fs::path staging = staging_of(folder);
  std::error_code code;
  // The system's rename would replace a folder that is empty, and says less where it is not.
  if (fs::exists(fs::symlink_status(folder, code))) return io_error(folder, fmt::format("rename {} to it", staging.string()), EEXIST);
  if (auto synced = sync_tree(staging); !synced) return synced;
  if (::rename(staging.c_str(), folder.c_str()) != 0) return io_error(folder, fmt::format("rename {} to it", staging.string()), errno);
  auto synced = sync_folder(folder_above(staging));
  // It might be gone after a crash, and so must not be taken for a save.
  if (!synced) fs::rename(folder, staging, code);
  return synced;
}

base::Result<FoundSave> latest_save(const fs::path& root) {
  std::error_code code;
  std::optional<FoundSave> latest;
  std::string broken;
  for (fs::directory_iterator entry(root, code), end; !code && entry != end; entry.increment(code)) {
    const std::string name = entry->path().filename().string();
    const auto steps = steps_of(name);
    std::error_code unreadable;
    if (steps && entry->is_directory(unreadable) && (!latest || *steps > latest->steps)) latest = FoundSave{entry->path(), *steps};
    if (name.starts_with(kSavePrefix) && name.ends_with(kStagingEnding)) broken = std::max(broken, name);
  }
  if (code) return io_error(root, "list the saves", code.value());
  if (latest) return *latest;
  const std::string_view remedy = "no save here, no folder step-<n>; name the folder that saves were written to, or start from the beginning";
  return Error{ErrorCode::kIo, fmt::format("{}{}", remedy, broken.empty() ? "" : fmt::format(" ({} is of a save that broke off)", broken)), root.string()};
}

}  // namespace moecheck::checkpoint
