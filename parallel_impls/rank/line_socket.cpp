#include "parallel_impls/rank/line_socket.h"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <ifaddrs.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdexcept>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "harness/base/files.h"

namespace moecheck::parallel_impls {

namespace {

int connect_path(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) throw std::runtime_error("socket path is too long: " + path);
  std::memcpy(address.sun_path, path.data(), path.size());
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || ::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    throw std::runtime_error("cannot connect to " + path + ": " + std::strerror(errno));
  return fd;
}

int connect_tcp(const std::string& host, const std::string& port) {
  addrinfo hints{};
  hints.ai_family = AF_INET;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (const int code = ::getaddrinfo(host.c_str(), port.c_str(), &hints, &found); code != 0)
    throw std::runtime_error("cannot find " + host + ": " + ::gai_strerror(code));
  const int fd = ::socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const bool is_connected = fd >= 0 && ::connect(fd, found->ai_addr, found->ai_addrlen) == 0;
  ::freeaddrinfo(found);
  if (!is_connected) throw std::runtime_error("cannot connect to " + host + ":" + port + ": " + std::strerror(errno));
  const int yes = 1;
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
  return fd;
}

void write_line(int fd, const base::Json& message) {
  const std::string line = message.dump(-1, ' ', false, base::Json::error_handler_t::replace) + "\n";
  std::size_t done = 0;
  while (done < line.size()) {
    const ssize_t n = ::write(fd, line.data() + done, line.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return;  // the driver is gone; the next read says so
    done += static_cast<std::size_t>(n);
  }
}

}  // namespace

LineSocket::LineSocket(const std::string& address) {
  constexpr std::string_view kTcp = "tcp:";
  const auto colon = address.rfind(':');
  fd_ = address.starts_with(kTcp) ? connect_tcp(address.substr(kTcp.size(), colon - kTcp.size()), address.substr(colon + 1)) : connect_path(address);
}

LineSocket::~LineSocket() {
  if (fd_ >= 0) ::close(fd_);
}

std::optional<std::string> LineSocket::read_line() {
  while (true) {
    if (const auto end = buffer_.find('\n'); end != std::string::npos) {
      std::string line = buffer_.substr(0, end);
      buffer_.erase(0, end + 1);
      return line;
    }
    char chunk[4096];
    const ssize_t n = ::read(fd_, chunk, sizeof chunk);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return std::nullopt;
    buffer_.append(chunk, static_cast<std::size_t>(n));
  }
}

void LineSocket::write(const base::Json& message) { write_line(fd_, message); }

std::string LineSocket::interface() const {
  sockaddr_in own{};
  socklen_t size = sizeof own;
  if (::getsockname(fd_, reinterpret_cast<sockaddr*>(&own), &size) != 0 || own.sin_family != AF_INET) return "";
  ifaddrs* all = nullptr;
  if (::getifaddrs(&all) != 0) return "";
  std::string name;
  for (const ifaddrs* one = all; one != nullptr && name.empty(); one = one->ifa_next)
    if (one->ifa_addr != nullptr && one->ifa_addr->sa_family == AF_INET &&
        reinterpret_cast<const sockaddr_in*>(one->ifa_addr)->sin_addr.s_addr == own.sin_addr.s_addr)
      name = one->ifa_name;
  ::freeifaddrs(all);
  return name;
}

WholeCase::WholeCase(const std::filesystem::path& file, long rank) {
  const auto text = base::read_file(file);
  if (!text) throw std::runtime_error(text.error().text());
  const auto json = base::parse_json(*text, file.string());
  if (!json) throw std::runtime_error(json.error().text());
  for (const base::Json& request : json->at("operations")) requests_.push_back(request.dump());
  const std::string answers = json->at("answers").get<std::string>() + std::to_string(rank);
  fd_ = ::open(answers.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
  if (fd_ < 0) throw std::runtime_error("cannot write to " + answers + ": " + std::strerror(errno));
}

WholeCase::~WholeCase() {
  if (fd_ >= 0) ::close(fd_);
}

std::optional<std::string> WholeCase::read_line() {
  if (has_failed_ || num_read_ == requests_.size()) return std::nullopt;
  return requests_[num_read_++];
}

void WholeCase::write(const base::Json& message) {
  has_failed_ = has_failed_ || (message.contains("ok") && message["ok"] == false);
  if (!message.contains("event") || message["event"] != "hello") write_line(fd_, message);
}

}  // namespace moecheck::parallel_impls
