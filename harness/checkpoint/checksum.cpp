#include "harness/checkpoint/checksum.h"

#include <fmt/format.h>

#define XXH_INLINE_ALL  // its code comes with the header: no library to find at run time
#include <xxhash.h>

#include "harness/base/files.h"

namespace moecheck::checkpoint {

std::string checksum(std::span<const std::byte> bytes) {
  const XXH128_hash_t hash = XXH3_128bits(bytes.data(), bytes.size());
  return fmt::format("xxh3:{:016x}{:016x}", hash.high64, hash.low64);
}

base::Result<std::string> checksum_of_file(const std::filesystem::path& path) {
  auto file = base::map_file(path);
  if (!file) return file.error();
  return checksum({(*file)->data, (*file)->size});
}

}  // namespace moecheck::checkpoint
