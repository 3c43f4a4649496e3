// The driver's end of the talk with one rank: JSON objects, one a line, over a stream.
#pragma once

#include <chrono>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>

#include "harness/base/json.h"
#include "harness/base/result.h"

namespace moecheck::launch {

struct Descriptor {
  int fd = -1;
  Descriptor() = default;
  explicit Descriptor(int value) : fd(value) {}
  Descriptor(Descriptor&& other) noexcept : fd(std::exchange(other.fd, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(fd, other.fd);
    return *this;
  }
  ~Descriptor();
};

// A UNIX stream socket at `path`. Errors: kIo, with the remedy for a path that is too long.
base::Result<Descriptor> listen_at(const std::filesystem::path& path, int backlog);

struct TcpListener {
  Descriptor socket;
  std::string address;   // "tcp:10.0.0.1:41234"
};
// host: a name or address of this machine, with ":port" or at a port that is free. Errors: kUsage, kIo.
base::Result<TcpListener> listen_at_tcp(const std::string& host, int backlog);

base::Result<Descriptor> accept_at(const Descriptor& listener);

// What poll() takes to wait until then, at most a second, so that an interrupt is seen.
int milliseconds_until(std::chrono::steady_clock::time_point deadline);

class Channel {
 public:
  // A reply with a long traceback has some kilobytes.
  static constexpr std::size_t kMaxLine = std::size_t{8} << 20;

  Channel() = default;
  explicit Channel(Descriptor stream) : stream_(std::move(stream)) {}

  int fd() const { return stream_.fd; }   // readable in poll() when there is news; -1 if there is none yet
  bool is_open() const { return stream_.fd >= 0; }
  void close() { stream_ = Descriptor(); }

  // Reads what is there. False: the other side closed it.
  bool read_some();
  std::optional<std::string> take_line();
  bool is_overfull() const { return buffer_.size() > kMaxLine; }
  const std::string& unread() const { return buffer_; }
  // If the other side is gone, the next read says so.
  void send_line(const base::Json& message);

 private:
  Descriptor stream_;
  std::string buffer_;
  std::size_t num_searched_ = 0;   // bytes of the buffer that are known to hold no line end
};

}  // namespace moecheck::launch
