#include "tests/unit/checkpoint/system_calls.h"

#include <cerrno>
#include <csignal>
#include <cstdarg>
#include <fcntl.h>
#include <filesystem>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "harness/base/require.h"

namespace moecheck::checkpoint {
namespace {

struct State {
  bool is_watched = false;
  std::vector<SystemCall> calls;
  std::optional<std::size_t> dies_at;
};

State& state() {
  static State only;
  return only;
}

enum Point : std::size_t { kBefore, kWithin, kAfter };

// Counts `number` calls before this one.
bool is_last(std::size_t number, Point point) { return state().dies_at == kPointsOfACall * number + point; }

void die() { ::kill(::getpid(), SIGKILL); }

std::string path_of(int fd) {
  std::error_code code;
  return std::filesystem::read_symlink("/proc/self/fd/" + std::to_string(fd), code).string();
}

// Calls `work`; of a write, `half` is what it does half.
template <typename Work, typename Half>
long watched(const char* name, const std::string& path, Work work, Half half) {
  if (!state().is_watched) return work();
  const std::size_t number = state().calls.size();
  state().calls.push_back({name, path});
  if (is_last(number, kBefore)) die();
  if (is_last(number, kWithin)) {
    half();
    die();
  }
  const long result = work();
  const int reason = errno;
  if (is_last(number, kAfter)) die();
  errno = reason;
  return result;
}

template <typename Work>
long watched(const char* name, const std::string& path, Work work) {
  return watched(name, path, work, [] {});
}

}  // namespace

Watch::Watch() {
  MOECHECK_REQUIRE(!state().is_watched);
  state() = {true, {}, std::nullopt};
}

Watch::~Watch() { state() = {}; }

const std::vector<SystemCall>& Watch::calls() const { return state().calls; }

void die_at(std::size_t point) { state().dies_at = point; }

}  // namespace moecheck::checkpoint

using moecheck::checkpoint::watched;

extern "C" {

int open(const char* path, int flags, ...) {
  mode_t mode = 0;
  if ((flags & O_CREAT) != 0) {
    va_list rest;
    va_start(rest, flags);
    mode = va_arg(rest, mode_t);
    va_end(rest);
  }
  const auto work = [&] { return ::syscall(SYS_openat, AT_FDCWD, path, flags, mode); };
  if ((flags & O_CREAT) == 0) return static_cast<int>(work());
  return static_cast<int>(watched("open", path, work));
}

ssize_t write(int fd, const void* bytes, size_t count) {
  return watched("write", moecheck::checkpoint::path_of(fd), [&] { return ::syscall(SYS_write, fd, bytes, count); },
                 [&] { ::syscall(SYS_write, fd, bytes, count / 2); });
}

int fsync(int fd) {
  return static_cast<int>(watched("fsync", moecheck::checkpoint::path_of(fd), [&] { return ::syscall(SYS_fsync, fd); }));
}

int rename(const char* from, const char* to) noexcept {
  return static_cast<int>(watched("rename", from, [&] { return ::syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0); }));
}

int mkdir(const char* path, mode_t mode) noexcept {
  return static_cast<int>(watched("mkdir", path, [&] { return ::syscall(SYS_mkdirat, AT_FDCWD, path, mode); }));
}

}  // extern "C"
