#include "harness/launch/rank_pool.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <fmt/format.h>

#include "harness/base/files.h"
#include "harness/launch/interrupts.h"
#include "harness/launch/output_tail.h"

namespace moecheck::launch {
namespace {

using base::Error;
using base::ErrorCode;
using base::Json;
using Clock = std::chrono::steady_clock;

// Ranks that wait for a failed one learn of it within this time, or never.
constexpr std::chrono::milliseconds kGrace{1500};
// A reply with a long traceback has some kilobytes.
constexpr std::size_t kMaxLine = std::size_t{8} << 20;
constexpr std::size_t kShown = 200;   // bytes of a bad line in a message

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
  Descriptor listener;
  Descriptor socket;
  std::string buffer;
  std::size_t num_searched = 0;   // bytes of the buffer that are known to hold no line end
  bool is_greeted = false;
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
    for (model::Dim r = 0; r < options_.world_size; ++r) {
      auto listener = listen_at(socket_path(r));
      if (!listener) return listener.error();
      auto process = ChildProcess::start({options_.command, environment(r, port), log_path(r)});
      if (!process) return process.error();
      ranks_.push_back({*std::move(process), *std::move(listener), {}, {}, 0, false, {}});
    }
    return greet_all();
  }

  void begin_case(const model::Mesh& mesh) override { ledger_ = CollectiveLedger(mesh); }

  CallResult call(const std::vector<Json>& requests, std::chrono::milliseconds limit, const std::optional<Killing>& killing) override {
    MOECHECK_REQUIRE(requests.size() == ranks_.size());
    result_ = CallResult{CallEnd::kAnswered, std::vector<RankOutcome>(ranks_.size())};
    ++request_id_;
    abandoned_.reset();
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
      look_for_abandoned();
      if (killing && result_.end != CallEnd::kKilled && is_due(*killing)) carry_out(*killing);
    }
    for (std::size_t r = 0; r < ranks_.size(); ++r)
      if (!result_.ranks[r].reply) result_.ranks[r].waits_in = ranks_[r].waits_in;
    return std::move(result_);
  }

  std::filesystem::path rendezvous() const override { return options_.folder / "rendezvous"; }

  std::string last_output(model::Dim rank) const override {
    return output_tail(log_path(rank));
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

  Error start_error(std::size_t r, const std::string& what) const {
    const std::string output = last_output(static_cast<model::Dim>(r));
    return {ErrorCode::kSubject, fmt::format("rank {} {}{}{}", r, what, output.empty() ? "" : "; its output ends: ", output), options_.command[0]};
  }

  // All at once: a rank that waits for a dead one at its start must not hide how that one died.
  base::Status greet_all() {
    const auto deadline = Clock::now() + options_.start_limit;
    while (true) {
      std::vector<pollfd> fds;
      for (const Rank& rank : ranks_) {
        fds.push_back({rank.is_greeted ? -1 : rank.socket.fd >= 0 ? rank.socket.fd : rank.listener.fd, POLLIN, 0});
        fds.push_back({rank.process.pidfd(), POLLIN, 0});
      }
      const bool has_news = ::poll(fds.data(), fds.size(), milliseconds_until(deadline)) > 0;
      for (std::size_t r = 0; has_news && r < ranks_.size(); ++r) {
        if (fds[2 * r].revents != 0)
          if (auto greeted = greet(r); !greeted) return greeted;
        if (const auto exit = ranks_[r].process.exited()) return start_error(r, "ended at start with " + exit->text());
      }
      const auto silent = std::ranges::find(ranks_, false, &Rank::is_greeted);
      if (silent == ranks_.end()) return base::Ok{};
      if (num_interrupts() >= 2) return Error{ErrorCode::kInterrupted, "interrupted", ""};
      if (Clock::now() >= deadline)
        return start_error(static_cast<std::size_t>(silent - ranks_.begin()), fmt::format("did not say hello within {} ms", options_.start_limit.count()));
    }
  }

  base::Status greet(std::size_t r) {
    Rank& rank = ranks_[r];
    if (rank.socket.fd < 0) {
      rank.socket = Descriptor(::accept4(rank.listener.fd, nullptr, nullptr, SOCK_CLOEXEC));
      return base::Ok{};
    }
    if (!read_some(rank)) {
      const auto exit = rank.process.wait_for(kGrace);
      return start_error(r, exit ? "ended at start with " + exit->text() : "closed its socket before saying hello");
    }
    const auto line = take_line(rank);
    if (!line && rank.buffer.size() <= kMaxLine) return base::Ok{};
    const std::string text = line ? *line : rank.buffer;
    auto hello = base::parse_json(text, "hello");
    // find, not value(): a field of a wrong type must not throw.
    const auto has = [&](const char* key, const Json& wanted) { return hello->contains(key) && (*hello)[key] == wanted; };
    rank.is_greeted = hello && hello->is_object() && has("event", "hello") && has("protocol", subject::kProtocol);
    if (!rank.is_greeted) return start_error(r, fmt::format("does not speak protocol {}: '{}'", subject::kProtocol, text.substr(0, kShown)));
    return base::Ok{};
  }

  static bool read_some(Rank& rank) {
    char chunk[1 << 14];
    const ssize_t n = ::read(rank.socket.fd, chunk, sizeof chunk);
    if (n > 0) rank.buffer.append(chunk, static_cast<std::size_t>(n));
    return n > 0 || (n < 0 && errno == EINTR);
  }

  static std::optional<std::string> take_line(Rank& rank) {
    const auto end = rank.buffer.find('\n', rank.num_searched);
    rank.num_searched = end == std::string::npos ? rank.buffer.size() : 0;
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

  // At least one is where it is to be killed, and the others of them have come as far as they can.
  bool is_due(const Killing& killing) const {
    const auto is_held = [&](model::Dim r) { return !result_.ranks[static_cast<std::size_t>(r)].held_at.empty(); };
    const auto is_stuck = [&](model::Dim r) {
      return is_held(r) || is_done(result_.ranks[static_cast<std::size_t>(r)]) || ranks_[static_cast<std::size_t>(r)].waits_in.has_value();
    };
    return std::ranges::any_of(killing.ranks, is_held) && std::ranges::all_of(killing.ranks, is_stuck);
  }

  void carry_out(const Killing& killing) {
    for (const model::Dim r : killing.ranks) ::kill(ranks_[static_cast<std::size_t>(r)].process.pid(), SIGKILL);
    result_.end = CallEnd::kKilled;
    deadline_ = std::min(deadline_, Clock::now() + kGrace);
  }

  static bool is_done(const RankOutcome& rank) { return rank.reply || rank.exit || rank.has_left || !rank.protocol_error.empty(); }
  bool is_settled() const { return std::ranges::all_of(result_.ranks, is_done); }

  void note_failure(std::size_t r) {
    if (result_.end != CallEnd::kAnswered) return;
    result_.end = CallEnd::kFailed;
    result_.first_failed = r;
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
    if (result_.ranks[r].exit) note_failure(r);
  }

  void hear(std::size_t r) {
    Rank& rank = ranks_[r];
    if (!read_some(rank)) {
      const auto exit = rank.process.wait_for(kGrace);
      if (exit) {
        result_.ranks[r].exit = exit;
      } else {
        result_.ranks[r].has_left = true;
      }
      return note_failure(r);
    }
    while (auto line = take_line(rank)) understand(r, *line);
    if (rank.buffer.size() > kMaxLine && !is_done(result_.ranks[r])) {
      result_.ranks[r].protocol_error = fmt::format("sent more than {} bytes without a line end", kMaxLine);
      note_failure(r);
    }
  }

  void understand(std::size_t r, const std::string& line) {
    RankOutcome& outcome = result_.ranks[r];
    auto message = base::parse_json(line, "message");
    if (!message || !message->is_object()) {
      outcome.protocol_error = fmt::format("sent what is not a JSON object: '{}'", line.substr(0, kShown));
      return note_failure(r);
    }
    if (message->contains("event")) return note_event(r, *message);
    const Json id = message->contains("id") ? (*message)["id"] : Json(nullptr);
    if (!id.is_number_integer() || id.get<std::int64_t>() != request_id_) {
      outcome.protocol_error = fmt::format("answered request {} with id {}", request_id_, id.dump());
      return note_failure(r);
    }
    if (outcome.reply) {
      outcome.protocol_error = fmt::format("answered request {} twice", request_id_);
      return note_failure(r);
    }
    auto reply = subject::reply_from_json(*message);
    if (!reply) {
      outcome.protocol_error = reply.error().text();
      return note_failure(r);
    }
    outcome.reply = *reply;
    if (!reply->is_ok) note_failure(r);
  }

  void note_event(std::size_t r, const Json& message) {
    if (message["event"] == "at" && message.contains("point") && message["point"].is_string()) result_.ranks[r].held_at = message["point"];
    // Events that a later protocol may add say nothing about waiting.
    if (message["event"] != "enter" && message["event"] != "leave") return;
    auto event = subject::collective_event_from_json(message);
    if (!event) return;
    ranks_[r].waits_in = event->is_enter ? std::optional(*event) : std::nullopt;
    if (!event->is_enter || result_.mismatch) return;
    if (auto mismatch = ledger_.enter(static_cast<model::Dim>(r), event->collective)) note_mismatch(*std::move(mismatch));
  }

  // A rank that waits in a collective for one that has answered already. It may only not have said yet that it left: it is given a
  // grace.
  void look_for_abandoned() {
    std::optional<CollectiveMismatch> found;
    // One that raised is a cause of its own.
    const auto is_answered = [&](model::Dim rank) {
      const auto& reply = result_.ranks[static_cast<std::size_t>(rank)].reply;
      return reply && reply->is_ok;
    };
    for (std::size_t r = 0; r < ranks_.size() && !found; ++r)
      if (ranks_[r].waits_in && !result_.ranks[r].reply)
        found = ledger_.abandoned(static_cast<model::Dim>(r), ranks_[r].waits_in->collective, is_answered);
    const bool is_same = found && abandoned_ && found->other_rank == abandoned_->other_rank && found->want == abandoned_->want;
    if (!is_same) {
      abandoned_ = std::move(found);
      abandoned_since_ = Clock::now();
    } else if (Clock::now() - abandoned_since_ >= kGrace && !result_.mismatch) {
      note_mismatch(*abandoned_);
    }
  }

  // A rank that raised may have been heard before the one that it did not agree with: then this is why. A rank that ended is a
  // cause of its own.
  void note_mismatch(CollectiveMismatch mismatch) {
    if (result_.end == CallEnd::kFailed && !result_.ranks[result_.first_failed].reply) return;
    result_.end = CallEnd::kDiverged;
    result_.mismatch = std::move(mismatch);
    deadline_ = std::min(deadline_, Clock::now() + kGrace);
  }

  Options options_;
  std::vector<Rank> ranks_;
  std::int64_t request_id_ = 0;
  CallResult result_;
  CollectiveLedger ledger_{model::Mesh()};
  std::optional<CollectiveMismatch> abandoned_;
  Clock::time_point abandoned_since_;
  Clock::time_point deadline_;
};

}  // namespace

base::Result<std::unique_ptr<RankPool>> RankPool::start(const Options& options) {
  auto pool = std::make_unique<ProcessPool>(options);
  if (auto launched = pool->launch(); !launched) return launched.error();
  return std::unique_ptr<RankPool>(std::move(pool));
}

}  // namespace moecheck::launch
