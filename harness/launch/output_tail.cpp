#include "harness/launch/output_tail.h"

#include <algorithm>
#include <fstream>

namespace moecheck::launch {
namespace {

// Enough for the last lines of a Python traceback.
constexpr std::size_t kTailBytes = 600;
// What is read to find them; a subject may have filled its log.
constexpr std::streamoff kReadBytes = 16 << 10;

// Of the stack trace below a C++ exception, which says less than the message above it.
bool is_stack_frame(const std::string& line) { return line.starts_with("frame #"); }

}  // namespace

std::string output_tail(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary | std::ios::ate);
  if (!in) return "";
  in.seekg(std::max<std::streamoff>(0, static_cast<std::streamoff>(in.tellg()) - kReadBytes));
  std::string tail;
  for (std::string line; std::getline(in, line);)
    if (!line.empty() && !is_stack_frame(line)) tail += (tail.empty() ? "" : " | ") + line;
  return tail.size() <= kTailBytes ? tail : tail.substr(tail.size() - kTailBytes);
}

}  // namespace moecheck::launch
