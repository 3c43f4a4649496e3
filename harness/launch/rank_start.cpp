#include "harness/launch/rank_start.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <random>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <fmt/format.h>

#include "harness/base/files.h"
#include "harness/launch/fork_server.h"
#include "harness/launch/interrupts.h"
#include "harness/launch/output_tail.h"
#include "harness/subject/protocol.h"
#include "harness/subject/rank_place.h"

namespace moecheck::launch {
namespace {

using base::Error;
using base::ErrorCode;
using base::Json;
using Clock = std::chrono::steady_clock;

constexpr std::size_t kShown = 200;   // bytes of a bad line in a message
// What a rank that closed its socket is given to end.
constexpr std::chrono::milliseconds kGrace{1500};

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

// The environment of a rank that torchrun would start.
std::map<std::string, std::string> rank_environment(const StartOptions& options, model::Dim r, int port) {
  return {{"RANK", std::to_string(r)},
          {"LOCAL_RANK", std::to_string(r)},
          {"WORLD_SIZE", std::to_string(options.world_size)},
          {"LOCAL_WORLD_SIZE", std::to_string(options.world_size)},
          {"MASTER_ADDR", "127.0.0.1"},
          {"MASTER_PORT", std::to_string(port)},
          {"OMP_NUM_THREADS", "1"}};
}

Error start_error(const StartOptions& options, std::size_t rank, const std::string& what) {
  const std::string output = output_tail(log_path(options, static_cast<model::Dim>(rank)));
  return {ErrorCode::kSubject, fmt::format("rank {} {}{}{}", rank, what, output.empty() ? "" : "; its output ends: ", output), options.command[0]};
}

// find, not value(): a field of a wrong type must not throw.
bool has(const Json& object, const char* key, const Json& wanted) { return object.contains(key) && object[key] == wanted; }

// Nothing if it is none of this protocol.
std::optional<Json> hello_in(const std::string& line) {
  auto hello = base::parse_json(line, "hello");
  if (!hello || !hello->is_object() || !has(*hello, "event", "hello") || !has(*hello, "protocol", subject::kProtocol)) return std::nullopt;
  return *std::move(hello);
}

std::string foreign_text(const std::string& line) {
  return fmt::format("does not speak protocol {}: '{}'", subject::kProtocol, line.substr(0, kShown));
}

// Ranks that are children of the driver, each with a socket of its own.
class OwnRanks {
 public:
  explicit OwnRanks(const StartOptions& options) : options_(options) {}

  base::Status launch() {
    const int port = free_port();
    for (model::Dim r = 0; r < options_.world_size; ++r) {
      const auto path = options_.folder / fmt::format("s{}", r);
      auto listener = listen_at(path, 1);
      if (!listener) return listener.error();
      auto environment = rank_environment(options_, r, port);
      environment[subject::kSocketVariable] = path.string();
      auto process = options_.fork_server != nullptr ? options_.fork_server->fork(environment, log_path(options_, r))
                                                     : ChildProcess::start({options_.command, environment, log_path(options_, r)});
      if (!process) return process.error();
      started_.ranks.push_back({*std::move(process), {}, {}});
      listeners_.push_back(*std::move(listener));
      is_greeted_.push_back(false);
    }
    return greet_all();
  }

  StartedRanks take() { return std::move(started_); }

 private:
  // All at once: a rank that waits for a dead one at its start must not hide how that one died.
  base::Status greet_all() {
    const auto deadline = Clock::now() + options_.start_limit;
    while (true) {
      std::vector<pollfd> fds;
      for (std::size_t r = 0; r < started_.ranks.size(); ++r) {
        const StartedRank& rank = started_.ranks[r];
        fds.push_back({is_greeted_[r] ? -1 : rank.channel.is_open() ? rank.channel.fd() : listeners_[r].fd, POLLIN, 0});
        fds.push_back({rank.process->pidfd(), POLLIN, 0});
      }
      const bool has_news = ::poll(fds.data(), fds.size(), milliseconds_until(deadline)) > 0;
      for (std::size_t r = 0; has_news && r < started_.ranks.size(); ++r) {
        if (fds[2 * r].revents != 0)
          if (auto greeted = greet(r); !greeted) return greeted;
        if (const auto exit = started_.ranks[r].process->exited()) return start_error(options_, r, "ended at start with " + exit->text());
      }
      const auto silent = std::ranges::find(is_greeted_, false);
      if (silent == is_greeted_.end()) return base::Ok{};
      if (num_interrupts() >= 2) return Error{ErrorCode::kInterrupted, "interrupted", ""};
      if (Clock::now() >= deadline)
        return start_error(options_, static_cast<std::size_t>(silent - is_greeted_.begin()),
                           fmt::format("did not say hello within {} ms; --start-timeout gives it longer", options_.start_limit.count()));
    }
  }

  base::Status greet(std::size_t r) {
    StartedRank& rank = started_.ranks[r];
    if (!rank.channel.is_open()) {
      auto accepted = accept_at(listeners_[r]);
      if (!accepted) return accepted.error();
      rank.channel = Channel(*std::move(accepted));
      return base::Ok{};
    }
    if (!rank.channel.read_some()) {
      const auto exit = rank.process->wait_for(kGrace);
      return start_error(options_, r, exit ? "ended at start with " + exit->text() : "closed its socket before saying hello");
    }
    const auto line = rank.channel.take_line();
    if (!line && !rank.channel.is_overfull()) return base::Ok{};
    const std::string text = line ? *line : rank.channel.unread();
    if (!hello_in(text)) return start_error(options_, r, foreign_text(text));
    is_greeted_[r] = true;
    return base::Ok{};
  }

  const StartOptions& options_;
  StartedRanks started_;
  std::vector<Descriptor> listeners_;
  std::vector<bool> is_greeted_;
};

// What keeps strangers on the network from being taken for ranks.
std::string random_token() {
  std::random_device device;
  return fmt::format("{:08x}{:08x}{:08x}{:08x}", device(), device(), device(), device());
}

// The launcher's words and the subject's.
ChildCommand launch_command(const StartOptions& options) {
  ChildCommand command{options.prefix, {{"OMP_NUM_THREADS", "1"}}, log_path(options, 0)};
  for (std::string& word : command.arguments)
    if (const auto at = word.find("{ranks}"); at != std::string::npos)
      word.replace(at, std::string_view("{ranks}").size(), std::to_string(options.world_size));
  command.arguments.insert(command.arguments.end(), options.command.begin(), options.command.end());
  // Those of a launcher that started the driver name other ranks.
  command.removed = subject::rank_variables();
  return command;
}

// Ranks that a launcher starts: one socket for all, and the hello says who it is.
class LaunchedRanks {
 public:
  explicit LaunchedRanks(const StartOptions& options) : options_(options) {}

  base::Status launch() {
    auto greeted = start_and_greet();
    if (!greeted && started_.launcher) started_.launcher->terminate(kAskedGrace);
    return greeted;
  }

  StartedRanks take() { return std::move(started_); }

 private:
  base::Status start_and_greet() {
    ChildCommand command = launch_command(options_);
    if (auto listens = listen(command.environment); !listens) return listens;
    auto process = ChildProcess::start(command);
    if (!process) return process.error();
    started_.launcher = *std::move(process);
    started_.ranks.resize(static_cast<std::size_t>(options_.world_size));
    const auto deadline = Clock::now() + options_.start_limit;
    while (!is_complete()) {
      wait(deadline);
      if (is_complete()) break;
      if (const auto exit = started_.launcher->exited()) return error(fmt::format("ended with {} before all ranks said hello", exit->text()));
      if (num_interrupts() >= 2) return Error{ErrorCode::kInterrupted, "interrupted", ""};
      if (!refusal_.empty()) return error(refusal_);
      if (Clock::now() >= deadline) return error(fmt::format("{}; {} ms were given, --start-timeout gives more", missing_text(), options_.start_limit.count()));
    }
    return base::Ok{};
  }

  base::Status listen(std::map<std::string, std::string>& environment) {
    if (options_.listen.empty()) {
      const auto path = options_.folder / "ranks";
      auto listener = listen_at(path, static_cast<int>(options_.world_size));
      if (!listener) return listener.error();
      listener_ = *std::move(listener);
      environment[subject::kSocketVariable] = path.string();
      return base::Ok{};
    }
    auto listener = listen_at_tcp(options_.listen, static_cast<int>(options_.world_size));
    if (!listener) return listener.error();
    listener_ = std::move(listener->socket);
    token_ = random_token();
    environment[subject::kSocketVariable] = listener->address;
    environment[subject::kTokenVariable] = token_;
    return base::Ok{};
  }

  void wait(Clock::time_point deadline) {
    std::vector<pollfd> fds = {{listener_.fd, POLLIN, 0}, {started_.launcher->pidfd(), POLLIN, 0}};
    for (const Channel& stranger : strangers_) fds.push_back({stranger.fd(), POLLIN, 0});
    if (::poll(fds.data(), fds.size(), milliseconds_until(deadline)) <= 0) return;
    for (std::size_t i = fds.size(); i-- > 2;)
      if (fds[i].revents != 0 && hear(strangers_[i - 2])) strangers_.erase(strangers_.begin() + static_cast<std::ptrdiff_t>(i) - 2);
    if (fds[0].revents != 0)
      if (auto accepted = accept_at(listener_)) strangers_.emplace_back(*std::move(accepted));
  }

  // True if nothing more is to be heard of it as a stranger.
  bool hear(Channel& stranger) {
    if (!stranger.read_some()) return true;
    const auto line = stranger.take_line();
    if (!line) return stranger.is_overfull();
    const auto hello = hello_in(*line);
    // Whoever does not know the token is none of ours.
    if (!token_.empty() && (!hello || !has(*hello, "token", token_))) return true;
    if (!hello) {
      refusal_ = "started what " + foreign_text(*line);
      return true;
    }
    const Json rank = hello->contains("rank") ? (*hello)["rank"] : Json(nullptr);
    const Json world_size = hello->contains("world_size") ? (*hello)["world_size"] : Json(options_.world_size);
    if (!rank.is_number_integer() || rank < 0 || rank >= options_.world_size || world_size != options_.world_size) {
      refusal_ = fmt::format("started a rank {} of {}, and the case has {} ranks; {{ranks}} in its command stands for their number", rank.dump(),
                             world_size.dump(), options_.world_size);
      return true;
    }
    StartedRank& greeted = started_.ranks[rank.get<std::size_t>()];
    if (greeted.channel.is_open()) {
      refusal_ = fmt::format("started rank {} twice", rank.dump());
      return true;
    }
    greeted.foreign = handle_of(*hello);
    greeted.channel = std::move(stranger);
    return true;
  }

  // So that a rank that its launcher loses is not left behind.
  static Descriptor handle_of(const Json& hello) {
    if (!has(hello, "machine", subject::machine_name()) || !hello.contains("pid") || !hello["pid"].is_number_integer()) return {};
    return Descriptor(static_cast<int>(::syscall(SYS_pidfd_open, hello["pid"].get<int>(), 0)));
  }

  bool is_complete() const { return std::ranges::all_of(started_.ranks, [](const StartedRank& rank) { return rank.channel.is_open(); }); }

  std::string missing_text() const {
    std::string text = "did not bring every rank to say hello; missing:";
    for (std::size_t r = 0; r < started_.ranks.size(); ++r)
      if (!started_.ranks[r].channel.is_open()) text += fmt::format(" {}", r);
    return text;
  }

  Error error(const std::string& what) const {
    const std::string output = output_tail(log_path(options_, 0));
    return {ErrorCode::kSubject, fmt::format("the launcher {}{}{}", what, output.empty() ? "" : "; the output ends: ", output), options_.prefix[0]};
  }

  const StartOptions& options_;
  StartedRanks started_;
  Descriptor listener_;
  std::string token_;
  std::vector<Channel> strangers_;
  std::string refusal_;
};

// What a rank answers when it is given the whole case: a pipe at the place of a file. Open at both ends, so that it never closes.
base::Result<Channel> answers_at(const std::filesystem::path& path) {
  Descriptor pipe;
  if (::mkfifo(path.c_str(), 0600) == 0) pipe = Descriptor(::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK));
  if (pipe.fd < 0) return Error{ErrorCode::kIo, fmt::format("cannot make a pipe: {}", std::strerror(errno)), path.string()};
  return Channel(std::move(pipe));
}

base::Result<StartedRanks> start_at_once(const StartOptions& options) {
  StartedRanks started;
  const auto file = options.folder / "case.json";
  const Json text = {{"protocol", subject::kProtocol}, {"operations", options.plan}, {"answers", (options.folder / "answers").string()}};
  if (auto written = base::write_file_atomically(file, text.dump(1)); !written) return written.error();
  for (model::Dim r = 0; r < options.world_size; ++r) {
    auto answers = answers_at(options.folder / fmt::format("answers{}", r));
    if (!answers) return answers.error();
    started.ranks.push_back({std::nullopt, {}, *std::move(answers)});
  }
  if (!options.prefix.empty()) {
    ChildCommand command = launch_command(options);
    command.environment[subject::kCaseVariable] = file.string();
    auto process = ChildProcess::start(command);
    if (!process) return process.error();
    started.launcher = *std::move(process);
    return started;
  }
  const int port = free_port();
  for (model::Dim r = 0; r < options.world_size; ++r) {
    auto environment = rank_environment(options, r, port);
    environment[subject::kCaseVariable] = file.string();
    auto process = ChildProcess::start({options.command, environment, log_path(options, r)});
    if (!process) return process.error();
    started.ranks[static_cast<std::size_t>(r)].process = *std::move(process);
  }
  return started;
}

template <typename Ranks>
base::Result<StartedRanks> started_by(const StartOptions& options) {
  Ranks ranks(options);
  if (auto launched = ranks.launch(); !launched) return launched.error();
  return ranks.take();
}

}  // namespace

base::Result<StartedRanks> start_ranks(const StartOptions& options) {
  if (!options.plan.empty()) return start_at_once(options);
  return options.prefix.empty() ? started_by<OwnRanks>(options) : started_by<LaunchedRanks>(options);
}

std::filesystem::path log_path(const StartOptions& options, model::Dim rank) {
  return options.folder / (options.prefix.empty() ? fmt::format("rank{}.log", rank) : "ranks.log");
}

}  // namespace moecheck::launch
