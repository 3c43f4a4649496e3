#include "harness/launch/fork_server.h"

#include <array>
#include <cerrno>
#include <cstring>
#include <poll.h>
#include <sys/prctl.h>

#include <fmt/format.h>

#include "harness/base/files.h"
#include "harness/launch/interrupts.h"
#include "harness/launch/output_tail.h"
#include "harness/subject/protocol.h"

namespace moecheck::launch {
namespace {

using base::Error;
using base::ErrorCode;
using base::Json;
using Clock = std::chrono::steady_clock;

constexpr int kLookMs = 100;   // how often a wait looks for an interrupt
constexpr std::size_t kShown = 200;
// A fork takes milliseconds, however large the framework.
constexpr std::chrono::seconds kForkLimit{30};

bool says_hello(const Json& message) {
  return message.is_object() && message.contains("event") && message["event"] == "hello" && message.contains("protocol") &&
         message["protocol"] == subject::kProtocol;
}

}  // namespace

base::Result<std::unique_ptr<ForkServer>> ForkServer::start(const Options& options) {
  if (auto made = base::make_folders(options.folder); !made) return made.error();
  if (::prctl(PR_SET_CHILD_SUBREAPER, 1) != 0) return Error{ErrorCode::kIo, fmt::format("cannot adopt ranks: {}", std::strerror(errno)), "prctl"};
  const auto path = options.folder / "server";
  auto listener = listen_at(path, 1);
  if (!listener) return listener.error();
  auto process = ChildProcess::start({options.command, {{subject::kServerVariable, path.string()}, {"OMP_NUM_THREADS", "1"}}, log_of(options)});
  if (!process) return process.error();
  auto server = std::unique_ptr<ForkServer>(new ForkServer(options, *std::move(process), Channel()));
  const auto deadline = Clock::now() + options.start_limit;
  while (!server->channel_.is_open()) {
    std::array<pollfd, 2> fds = {pollfd{listener->fd, POLLIN, 0}, pollfd{server->process_.pidfd(), POLLIN, 0}};
    ::poll(fds.data(), fds.size(), kLookMs);
    if (fds[0].revents != 0) {
      auto accepted = accept_at(*listener);
      if (!accepted) return accepted.error();
      server->channel_ = Channel(*std::move(accepted));
    } else if (const auto exit = server->process_.exited()) {
      return server->error("ended at start with " + exit->text());
    }
    if (num_interrupts() >= 2) return Error{ErrorCode::kInterrupted, "interrupted", ""};
    if (Clock::now() >= deadline) return server->error(fmt::format("did not say hello within {} ms; --start-timeout gives it longer", options.start_limit.count()));
  }
  const auto hello = server->next_message("say hello");
  if (!hello) return hello.error();
  if (!says_hello(*hello)) return server->error(fmt::format("does not speak protocol {}: '{}'", subject::kProtocol, hello->dump().substr(0, kShown)));
  return server;
}

base::Result<ChildProcess> ForkServer::fork(const std::map<std::string, std::string>& environment, const std::filesystem::path& output) {
  channel_.send_line({{"id", ++request_id_}, {"op", "fork"}, {"environment", environment}, {"output", output.string()}});
  const auto reply = next_message("fork a rank");
  if (!reply) return reply.error();
  const auto has_number = [&](const char* key) { return reply->contains(key) && (*reply)[key].is_number_integer(); };
  if (!has_number("id") || (*reply)["id"] != request_id_ || !has_number("pid"))
    return error(fmt::format("answered a request to fork with '{}'", reply->dump().substr(0, kShown)));
  return ChildProcess::adopt((*reply)["pid"].get<int>());
}

base::Result<Json> ForkServer::next_message(const char* what) {
  const auto deadline = Clock::now() + kForkLimit;
  while (true) {
    if (const auto line = channel_.take_line()) {
      auto message = base::parse_json(*line, "message");
      if (!message || !message->is_object()) return error(fmt::format("sent what is not a JSON object: '{}'", line->substr(0, kShown)));
      return message;
    }
    if (num_interrupts() >= 2) return Error{ErrorCode::kInterrupted, "interrupted", ""};
    if (Clock::now() >= deadline || channel_.is_overfull()) return error(fmt::format("did not {} within {} s", what, kForkLimit.count()));
    pollfd fd{channel_.fd(), POLLIN, 0};
    if (::poll(&fd, 1, kLookMs) > 0 && !channel_.read_some()) {
      const auto exit = process_.wait_for(std::chrono::milliseconds(kLookMs));
      return error(exit ? "ended with " + exit->text() : "closed its socket");
    }
  }
}

Error ForkServer::error(const std::string& what) const {
  const std::string output = output_tail(log_of(options_));
  return {ErrorCode::kSubject,
          fmt::format("the server that forks ranks {}{}{}", what, output.empty() ? "" : "; its output ends: ", output),
          options_.command[0]};
}

}  // namespace moecheck::launch
