// The calls with which a save changes the disk, watched, and broken off at any of them. The test's program defines open, write, fsync,
// rename and mkdir itself, so that the code under test needs no seam: each does what it always does unless a Watch is set.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace moecheck::checkpoint {

struct SystemCall {
  std::string name;    // "open" (of a file that is created), "write", "fsync", "rename", "mkdir"
  std::string path;    // of a rename, the old one
  bool operator==(const SystemCall&) const = default;
};

// While it lives, calls of this process are listed. One at a time.
class Watch {
 public:
  Watch();
  ~Watch();
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

  const std::vector<SystemCall>& calls() const;
};

// The process kills itself with SIGKILL at this point: before call `number`, after it, or, of a write, after half of its bytes.
// Points are counted over all calls, three to each: 3 n is before call n, 3 n + 1 in the middle of it, 3 n + 2 after it.
void die_at(std::size_t point);

constexpr std::size_t kPointsOfACall = 3;

}  // namespace moecheck::checkpoint
