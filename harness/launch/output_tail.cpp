#include "harness/launch/output_tail.h"

#include <fstream>

namespace moecheck::launch {
namespace {

// Enough for the last lines of a Python traceback.
constexpr std::streamoff kTailBytes = 600;

}  // namespace

std::string output_tail(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary | std::ios::ate);
  if (!in) return "";
  // Only the end is read: a subject may have filled its log.
  in.seekg(std::max<std::streamoff>(0, static_cast<std::streamoff>(in.tellg()) - kTailBytes));
  std::string tail;
  for (std::string line; std::getline(in, line);)
    if (!line.empty()) tail += (tail.empty() ? "" : " | ") + line;
  return tail;
}

}  // namespace moecheck::launch
