// Checksums of files and tensors: XXH3 of 128 bits, for finding damage and equal content, not against forgery.
#pragma once

#include <filesystem>
#include <span>
#include <string>

#include "harness/base/result.h"

namespace moecheck::checkpoint {

std::string checksum(std::span<const std::byte> bytes);   // "xxh3:" and 32 hexadecimal digits

// Errors: kIo with the path.
base::Result<std::string> checksum_of_file(const std::filesystem::path& path);

}  // namespace moecheck::checkpoint
