#include "harness/launch/channel.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <fmt/format.h>

namespace moecheck::launch {
namespace {

using base::Error;
using base::ErrorCode;

// "host:port" of a bound socket, in digits.
std::string bound_address(int fd) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  std::array<char, NI_MAXHOST> host{};
  std::array<char, NI_MAXSERV> port{};
  ::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
  ::getnameinfo(reinterpret_cast<const sockaddr*>(&address), size, host.data(), host.size(), port.data(), port.size(),
                NI_NUMERICHOST | NI_NUMERICSERV);
  return fmt::format("{}:{}", host.data(), port.data());
}

Error cannot_listen(const std::string& where) { return {ErrorCode::kIo, fmt::format("cannot listen: {}", std::strerror(errno)), where}; }

}  // namespace

Descriptor::~Descriptor() {
  if (fd >= 0) ::close(fd);
}

base::Result<Descriptor> listen_at(const std::filesystem::path& path, int backlog) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.string().size() >= sizeof address.sun_path)
    return Error{ErrorCode::kIo, "path is too long for a socket; name a shorter folder with MOECHECK_TMPDIR", path.string()};
  std::memcpy(address.sun_path, path.c_str(), path.string().size());
  Descriptor listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (listener.fd < 0 || ::bind(listener.fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 || ::listen(listener.fd, backlog) != 0)
    return cannot_listen(path.string());
  return listener;
}

base::Result<TcpListener> listen_at_tcp(const std::string& host, int backlog) {
  const auto colon = host.rfind(':');
  const std::string name = host.substr(0, colon);
  const std::string port = colon == std::string::npos ? "0" : host.substr(colon + 1);
  addrinfo hints{};
  hints.ai_family = AF_INET;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  if (const int code = ::getaddrinfo(name.c_str(), port.c_str(), &hints, &found); code != 0)
    return Error{ErrorCode::kUsage,
                 fmt::format("{}; expected an address of this machine that the ranks can reach, as in 10.0.0.1 or 10.0.0.1:4000",
                             ::gai_strerror(code)),
                 host};
  Descriptor listener(::socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int yes = 1;
  ::setsockopt(listener.fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  const bool is_bound = ::bind(listener.fd, found->ai_addr, found->ai_addrlen) == 0;
  ::freeaddrinfo(found);
  if (!is_bound || ::listen(listener.fd, backlog) != 0) return cannot_listen(host);
  const std::string address = "tcp:" + bound_address(listener.fd);
  return TcpListener{std::move(listener), address};
}

base::Result<Descriptor> accept_at(const Descriptor& listener) {
  Descriptor accepted(::accept4(listener.fd, nullptr, nullptr, SOCK_CLOEXEC));
  if (accepted.fd < 0) return Error{ErrorCode::kIo, fmt::format("cannot accept: {}", std::strerror(errno)), ""};
  const int yes = 1;
  ::setsockopt(accepted.fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);   // without effect on a UNIX socket
  return accepted;
}

int milliseconds_until(std::chrono::steady_clock::time_point deadline) {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now()).count();
  return static_cast<int>(std::clamp<long long>(left, 0, 1000));
}

bool Channel::read_some() {
  std::array<char, 1 << 14> chunk;
  const ssize_t n = ::read(stream_.fd, chunk.data(), chunk.size());
  if (n > 0) buffer_.append(chunk.data(), static_cast<std::size_t>(n));
  return n > 0 || (n < 0 && (errno == EINTR || errno == EAGAIN));
}

std::optional<std::string> Channel::take_line() {
  const auto end = buffer_.find('\n', num_searched_);
  num_searched_ = end == std::string::npos ? buffer_.size() : 0;
  if (end == std::string::npos) return std::nullopt;
  std::string line = buffer_.substr(0, end);
  buffer_.erase(0, end + 1);
  return line;
}

void Channel::send_line(const base::Json& message) {
  const std::string line = message.dump() + "\n";
  std::size_t done = 0;
  while (done < line.size()) {
    const ssize_t n = ::send(stream_.fd, line.data() + done, line.size() - done, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return;
    done += static_cast<std::size_t>(n);
  }
}

}  // namespace moecheck::launch
