#include "harness/base/files.h"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace moecheck::base {
namespace {

Error io_error(const std::filesystem::path& path, std::string_view doing, int reason) {
  std::string message = "cannot " + std::string(doing) + ": " + std::strerror(reason);
  if (reason == ENOSPC) message += "; free some space there or name another folder with --out or MOECHECK_TMPDIR";
  return Error{ErrorCode::kIo, message, path.string()};
}

// Closes on every way out.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }
  int close() {
    const int rc = ::close(fd_);
    fd_ = -1;
    return rc;
  }

 private:
  int fd_;
};

int write_all(int fd, std::string_view part) {
  while (!part.empty()) {
    const ssize_t n = ::write(fd, part.data(), part.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno;
    part.remove_prefix(static_cast<std::size_t>(n));
  }
  return 0;
}

}  // namespace

Result<std::string> read_file(const std::filesystem::path& path) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.get() < 0) return io_error(path, "open", errno);
  std::string content;
  char buffer[1 << 16];
  for (;;) {
    const ssize_t n = ::read(file.get(), buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return io_error(path, "read", errno);
    if (n == 0) return content;
    content.append(buffer, static_cast<std::size_t>(n));
  }
}

Status write_file_atomically(const std::filesystem::path& path, std::span<const std::string_view> parts) {
  const std::filesystem::path aside = path.string() + ".tmp";
  Descriptor file(::open(aside.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  if (file.get() < 0) return io_error(path, "create", errno);
  int reason = 0;
  for (const std::string_view part : parts)
    if (reason == 0) reason = write_all(file.get(), part);
  if (file.close() != 0 && reason == 0) reason = errno;
  if (reason == 0 && ::rename(aside.c_str(), path.c_str()) != 0) reason = errno;
  if (reason == 0) return Ok{};
  ::unlink(aside.c_str());
  return io_error(path, "write", reason);
}

Status write_file_atomically(const std::filesystem::path& path, std::string_view content) {
  return write_file_atomically(path, std::span<const std::string_view>(&content, 1));
}

Status make_folders(const std::filesystem::path& path) {
  std::error_code code;
  std::filesystem::create_directories(path, code);
  if (code) return io_error(path, "make the folder", code.value());
  return Ok{};
}

Result<std::shared_ptr<const MappedFile>> map_file(const std::filesystem::path& path) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.get() < 0) return io_error(path, "open", errno);
  struct stat info{};
  if (::fstat(file.get(), &info) != 0) return io_error(path, "stat", errno);
  const auto size = static_cast<std::size_t>(info.st_size);
  if (size == 0) return std::make_shared<const MappedFile>();
  void* memory = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.get(), 0);
  if (memory == MAP_FAILED) return io_error(path, "map", errno);
  return std::shared_ptr<const MappedFile>(new MappedFile{static_cast<const std::byte*>(memory), size},
                                           [](const MappedFile* mapped) {
                                             ::munmap(const_cast<std::byte*>(mapped->data), mapped->size);
                                             delete mapped;
                                           });
}

}  // namespace moecheck::base
