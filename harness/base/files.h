// Whole-file reading and atomic writing.
#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "harness/base/result.h"

namespace moecheck::base {

// Errors: kIo with the path and the reason of the operating system.
Result<std::string> read_file(const std::filesystem::path& path);

// Writes to PATH.tmp, then renames: a reader sees the whole content or no file. The parts are concatenated.
// Errors: kIo ("No space left on device", ...); PATH.tmp is removed then.
Status write_file_atomically(const std::filesystem::path& path, std::span<const std::string_view> parts);
Status write_file_atomically(const std::filesystem::path& path, std::string_view content);

Status make_folders(const std::filesystem::path& path);

// A read-only mapping; alive as long as a copy of the pointer.
struct MappedFile {
  const std::byte* data = nullptr;
  std::size_t size = 0;
};
Result<std::shared_ptr<const MappedFile>> map_file(const std::filesystem::path& path);

}  // namespace moecheck::base
