#include "harness/launch/rank_pool.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <fmt/format.h>

#include "harness/base/files.h"
#include "harness/launch/interrupts.h"

namespace moecheck::launch {
namespace {

using base::Error;
using base::ErrorCode;
using base::Json;
using Clock = std::chrono::steady_clock;

// Ranks that wait for a failed one learn of it within this time, or never.
constexpr std::chrono::milliseconds kGrace{1500};
constexpr std::size_t kMaxLine = std::size_t{64} << 20;
constexpr std::size_t kTailBytes = 2000;

struct Descriptor {
  int fd = -1;
  Descriptor() = default;
  explicit Descriptor(int value) : fd(value) {}
  Descriptor(Descriptor&& other) noexcept : fd(std::exchange(other.fd, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(fd, other.fd);
    return *this;
  }
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

struct Rank {
  ChildProcess process;
  Descriptor socket;
  std::string buffer;
  std::optional<subject::CollectiveEvent> waits_in;
};

base::Result<Descriptor> listen_at(const std::filesystem::path& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.string().size() >= sizeof address.sun_path)
    return Error{ErrorCode::kIo, "path is too long for a socket; name a shorter folder with MOECHECK_TMPDIR", path.string()};
  std::memcpy(address.sun_path, path.c_str(), path.string().size());
  Descriptor listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (listener.fd < 0 || ::bind(listener.fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 || ::listen(listener.fd, 1) != 0)
    return Error{ErrorCode::kIo, fmt::format("cannot listen: {}", std::strerror(errno)), path.string()};
  return listener;
}

// A free TCP port, for subjects that rendezvous as torchrun does. Another program may take it before they do.
int free_port() {
  const Descriptor probe(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  if (::bind(probe.fd, reinterpret_cast<const sockaddr*>(&address), size) != 0) return 29500;
  ::getsockname(probe.fd, reinterpret_cast<sockaddr*>(&address), &size);
  return ntohs(address.sin_port);
}

int milliseconds_until(Clock::time_point deadline) {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
  return static_cast<int>(std::clamp<long long>(left, 0, 1000));
}

class ProcessPool final : public RankPool {
 public:
  explicit ProcessPool(Options options) : options_(std::move(options)) {}

  base::Status launch() {
    if (auto made = base::make_folders(rendezvous()); !made) return made.error();
    const int port = free_port();
    std::vector<Descriptor> listeners;
    for (model::Dim r = 0; r < options_.world_size; ++r) {
      auto listener = listen_at(socket_path(r));
      if (!listener) return listener.error();
      listeners.push_back(*std::move(listener));
      auto process = ChildProcess::start({options_.command, environment(r, port), log_path(r)});
      if (!process) return process.error();
      ranks_.push_back({*std::move(process), {}, {}, {}});
    }
    const auto deadline = Clock::now() + options_.start_limit;
    for (model::Dim r = 0; r < options_.world_size; ++r)
      if (auto greeted = greet(r, listeners[static_cast<std::size_t>(r)].fd, deadline); !greeted) return greeted.error();
    return base::Ok{};
  }

  CallResult call(const std::vector<Json>& requests, std::chrono::milliseconds limit) override {
    MOECHECK_REQUIRE(requests.size() == ranks_.size());
    result_ = CallResult{CallEnd::kAnswered, std::vector<RankOutcome>(ranks_.size())};
    ++request_id_;
    for (std::size_t r = 0; r < ranks_.size(); ++r) {
      ranks_[r].waits_in.reset();
      send_line(r, requests[r]);
    }
    deadline_ = Clock::now() + limit;
    while (!is_settled()) {
      if (Clock::now() >= deadline_) {
        if (result_.end == CallEnd::kAnswered) result_.end = CallEnd::kTimedOut;
        break;
      }
      if (num_interrupts() >= 2) {
        result_.end = CallEnd::kInterrupted;
        break;
      }
      wait_for_news();
    }
    for (std::size_t r = 0; r < ranks_.size(); ++r)
      if (!result_.ranks[r].reply) result_.ranks[r].waits_in = ranks_[r].waits_in;
    return std::move(result_);
  }

  std::filesystem::path rendezvous() const override { return options_.folder / "rendezvous"; }

  std::string last_output(model::Dim rank) const override {
    auto text = base::read_file(log_path(rank));
    if (!text) return "";
    return text->size() <= kTailBytes ? *text : text->substr(text->size() - kTailBytes);
  }

 private:
  std::filesystem::path socket_path(model::Dim r) const { return options_.folder / fmt::format("s{}", r); }
  std::filesystem::path log_path(model::Dim r) const { return options_.folder / fmt::format("rank{}.log", r); }

  std::map<std::string, std::string> environment(model::Dim r, int port) const {
    return {{"RANK", std::to_string(r)},          {"LOCAL_RANK", std::to_string(r)},
            {"WORLD_SIZE", std::to_string(options_.world_size)}, {"LOCAL_WORLD_SIZE", std::to_string(options_.world_size)},
            {"MASTER_ADDR", "127.0.0.1"},         {"MASTER_PORT", std::to_string(port)},
            {"OMP_NUM_THREADS", "1"},             {subject::kSocketVariable, socket_path(r).string()}};
  }

  Error start_error(model::Dim r, std::string what) const {
    return {ErrorCode::kSubject, fmt::format("rank {} {}; its output ends: {}", r, what, last_output(r)), options_.command[0]};
  }

  base::Status greet(model::Dim r, int listener, Clock::time_point deadline) {
    Rank& rank = ranks_[static_cast<std::size_t>(r)];
    while (true) {
      if (const auto exit = rank.process.exited()) return start_error(r, "ended at start with " + exit->text());
      if (Clock::now() >= deadline) return start_error(r, fmt::format("did not say hello within {} ms", options_.start_limit.count()));
      if (num_interrupts() >= 2) return Error{ErrorCode::kInterrupted, "interrupted", ""};
      pollfd fds[2] = {{rank.socket.fd >= 0 ? rank.socket.fd : listener, POLLIN, 0}, {rank.process.pidfd(), POLLIN, 0}};
      if (::poll(fds, 2, milliseconds_until(deadline)) <= 0 || (fds[0].revents & (POLLIN | POLLHUP)) == 0) continue;
      if (rank.socket.fd < 0) {
        rank.socket = Descriptor(::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
        continue;
      }
      if (!read_some(rank)) return start_error(r, "closed its socket before saying hello");
      const auto line = take_line(rank);
      if (!line) continue;
      auto hello = base::parse_json(*line, "hello");
      if (!hello || !hello->is_object() || hello->value("event", "") != "hello" || hello->value("protocol", 0) != subject::kProtocol)
        return start_error(r, fmt::format("does not speak protocol {}: '{}'", subject::kProtocol, line->substr(0, 200)));
      return base::Ok{};
    }
  }

  static bool read_some(Rank& rank) {
    char chunk[1 << 14];
    const ssize_t n = ::read(rank.socket.fd, chunk, sizeof chunk);
    if (n > 0) rank.buffer.append(chunk, static_cast<std::size_t>(n));
    return n > 0 || (n < 0 && errno == EINTR);
  }

  static std::optional<std::string> take_line(Rank& rank) {
    const auto end = rank.buffer.find('\n');
    if (end == std::string::npos) return std::nullopt;
    std::string line = rank.buffer.substr(0, end);
    rank.buffer.erase(0, end + 1);
    return line;
  }

  void send_line(std::size_t r, Json request) {
    request["id"] = request_id_;
    const std::string line = request.dump() + "\n";
    std::size_t done = 0;
    while (done < line.size()) {
      const ssize_t n = ::send(ranks_[r].socket.fd, line.data() + done, line.size() - done, MSG_NOSIGNAL);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return;  // it is gone; its pidfd will say how
      done += static_cast<std::size_t>(n);
    }
  }

  static bool is_done(const RankOutcome& rank) { return rank.reply || rank.exit || !rank.protocol_error.empty(); }
  bool is_settled() const { return std::ranges::all_of(result_.ranks, is_done); }

  void note_failure() {
    if (result_.end != CallEnd::kAnswered) return;
    result_.end = CallEnd::kFailed;
    deadline_ = std::min(deadline_, Clock::now() + kGrace);
  }

  void wait_for_news() {
    std::vector<pollfd> fds;
    for (std::size_t r = 0; r < ranks_.size(); ++r) {
      const bool is_open = !is_done(result_.ranks[r]);
      fds.push_back({is_open ? ranks_[r].socket.fd : -1, POLLIN, 0});
      fds.push_back({is_open ? ranks_[r].process.pidfd() : -1, POLLIN, 0});
    }
    if (::poll(fds.data(), fds.size(), milliseconds_until(deadline_)) <= 0) return;
    for (std::size_t r = 0; r < ranks_.size(); ++r) {
      // What it said before it ended counts.
      if (fds[2 * r].revents != 0) hear(r);
      if (fds[2 * r + 1].revents != 0 && fds[2 * r].revents == 0) note_exit(r);
    }
  }

  void note_exit(std::size_t r) {
    if (is_done(result_.ranks[r])) return;
    result_.ranks[r].exit = ranks_[r].process.exited();
    if (result_.ranks[r].exit) note_failure();
  }

  void hear(std::size_t r) {
    Rank& rank = ranks_[r];
    if (!read_some(rank)) {
      const auto exit = rank.process.wait_for(kGrace);
      if (exit) {
        result_.ranks[r].exit = exit;
      } else {
        result_.ranks[r].protocol_error = "closed its socket without a reply";
      }
      return note_failure();
    }
    while (auto line = take_line(rank)) understand(r, *line);
    if (rank.buffer.size() > kMaxLine) {
      result_.ranks[r].protocol_error = fmt::format("sent more than {} bytes without a line end", kMaxLine);
      note_failure();
    }
  }

  void understand(std::size_t r, const std::string& line) {
    RankOutcome& outcome = result_.ranks[r];
    auto message = base::parse_json(line, "message");
    if (!message || !message->is_object()) {
      outcome.protocol_error = fmt::format("sent what is not a JSON object: '{}'", line.substr(0, 200));
      return note_failure();
    }
    if (message->contains("event")) {
      auto event = subject::collective_event_from_json(*message);
      if (event) ranks_[r].waits_in = event->is_enter ? std::optional(*event) : std::nullopt;
      return;
    }
    const Json id = message->value("id", Json(nullptr));
    if (!id.is_number_integer() || id.get<std::int64_t>() != request_id_) {
      outcome.protocol_error = fmt::format("answered request {} with id {}", request_id_, id.dump());
      return note_failure();
    }
    auto reply = subject::reply_from_json(*message);
    if (!reply) {
      outcome.protocol_error = reply.error().text();
      return note_failure();
    }
    outcome.reply = *reply;
    if (!reply->is_ok) note_failure();
  }

  Options options_;
  std::vector<Rank> ranks_;
  std::int64_t request_id_ = 0;
  CallResult result_;
  Clock::time_point deadline_;
};

}  // namespace

base::Result<std::unique_ptr<RankPool>> RankPool::start(const Options& options) {
  auto pool = std::make_unique<ProcessPool>(options);
  if (auto launched = pool->launch(); !launched) return launched.error();
  return std::unique_ptr<RankPool>(std::move(pool));
}

}  // namespace moecheck::launch
