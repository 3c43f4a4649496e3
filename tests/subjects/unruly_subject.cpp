// A subject of protocol v1 that misbehaves as asked, to test what the harness makes of it. It computes nothing.
//
// In a case: impl=<misdeed>.<rank>.<request>, as in impl=segv.1.forward, or impl=segv.1.forward.2 for batch 2; the other ranks, and impl=honest, do as they are told.
// At its start: a word on the command line (see start_misdeed); --moecheck-describe is answered before or after it.
#include <arpa/inet.h>
#include <array>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <fcntl.h>
#include <fstream>
#include <netinet/in.h>
#include <string>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fmt/format.h>

#include "harness/base/files.h"
#include "harness/subject/protocol.h"
#include "harness/subject/rank_place.h"
#include "harness/trace/trace.h"

namespace {

using moecheck::base::Json;
namespace subject = moecheck::subject;
namespace trace = moecheck::trace;

constexpr std::array kMisdeeds = {
    "segv",        // is killed by SIGSEGV
    "kill",        // kills itself with SIGKILL
    "exit3",       // exits
    "segv_peers_wait",     // SIGSEGV, while the other ranks wait in a collective
    "hang",                // never answers, outside of a collective
    "hang_in_collective",  // never answers, after an enter event
    "hang_ignoring_sigterm",
    "garbage",       // answers what is no JSON
    "wrong_id",      // answers another request
    "no_ok",         // answers an object without "ok"
    "unknown_code",  // refuses with a code that the protocol lacks
    "oversized",     // sends bytes without a line end, and no end of them
    "twice",         // answers, and answers again
    "close_socket",  // closes its socket and lives on
    "raise_peers_wait",      // refuses with "error", while the other ranks wait in a collective
    "raise", "io", "oom", "unsupported",  // refuses with that code ("error" for raise)
    "refuse_alone",     // refuses as unsupported while the other ranks hang
    "noise",            // fills stdout and stderr, sends an unknown event; is fine otherwise
    "slow",             // takes a while; is fine otherwise
    "truncated_trace",  // writes half a file and says ok
    "no_trace",         // writes nothing and says ok
    "other_collective", "other_count", "other_dtype", "other_splits",  // enters another collective than its peer: both wait forever
    "diverges_and_raises",        // likewise, and raises
    "all_gather_of_other_count",  // which is fine
    "grandchild",       // leaves a process behind, whose id lies in TRACE/grandchild, and is killed by SIGSEGV
};

constexpr unsigned kSlowMicroseconds = 300'000;

struct Misdeed {
  std::string name;   // "honest"
  long rank = -1;
  std::string request;
};

Misdeed misdeed_from(const std::string& impl) {
  const auto first = impl.find('.');
  const auto second = impl.find('.', first + 1);
  if (first == std::string::npos || second == std::string::npos) return {impl, -1, ""};
  return {impl.substr(0, first), std::strtol(impl.c_str() + first + 1, nullptr, 10), impl.substr(second + 1)};
}

[[noreturn]] void hang() {
  while (true) ::pause();
}

[[noreturn]] void die_of(int signal) {
  const rlimit no_core{0, 0};
  ::setrlimit(RLIMIT_CORE, &no_core);
  ::signal(signal, SIG_DFL);
  ::kill(::getpid(), signal);
  hang();
}

int connected(const std::string& address) {
  if (const auto colon = address.rfind(':'); address.starts_with("tcp:")) {
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_port = htons(static_cast<std::uint16_t>(std::stoi(address.substr(colon + 1))));
    ::inet_pton(AF_INET, address.substr(4, colon - 4).c_str(), &at.sin_addr);
    const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (::connect(fd, reinterpret_cast<const sockaddr*>(&at), sizeof at) != 0) std::exit(9);
    return fd;
  }
  sockaddr_un at{};
  at.sun_family = AF_UNIX;
  std::memcpy(at.sun_path, address.data(), std::min(address.size(), sizeof at.sun_path - 1));
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (::connect(fd, reinterpret_cast<const sockaddr*>(&at), sizeof at) != 0) std::exit(9);
  return fd;
}

// To the driver; or the requests of a case that is given whole, and a file for what is said.
class Socket {
 public:
  explicit Socket(const std::string& address) : fd_(connected(address)) {}
  Socket(const std::filesystem::path& whole_case, long rank) : requests_(std::deque<std::string>()) {
    const Json json = Json::parse(std::ifstream(whole_case));
    for (const Json& request : json["operations"]) requests_->push_back(request.dump());
    fd_ = ::open((json["answers"].get<std::string>() + std::to_string(rank)).c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
  }
  void send(std::string_view bytes) const {
    while (!bytes.empty()) {
      const ssize_t n = ::write(fd_, bytes.data(), bytes.size());
      if (n <= 0) std::exit(0);  // the driver is gone
      bytes.remove_prefix(static_cast<std::size_t>(n));
    }
  }
  void send_line(const Json& message) const { send(message.dump() + "\n"); }
  std::string read_line() {
    if (requests_) return next_request();
    std::string line;
    for (char c = 0; ::read(fd_, &c, 1) == 1;) {
      if (c == '\n') return line;
      line += c;
    }
    std::exit(0);  // a closed socket asks to leave
  }
  void close() const { ::close(fd_); }

 private:
  std::string next_request() {
    if (requests_->empty()) std::exit(0);
    std::string request = std::move(requests_->front());
    requests_->pop_front();
    return request;
  }

  int fd_ = -1;
  std::optional<std::deque<std::string>> requests_;
};

trace::Collective all_reduce_of(std::int64_t sequence) { return {"all_reduce", "ep", sequence, "sum", "fp32", 35, 140, {}, {}, "output/y_TD"}; }

void wait_in_collective(const Socket& socket) {
  socket.send_line(subject::to_json(subject::CollectiveEvent{true, all_reduce_of(3)}));
  hang();
}

// What every rank sends in a phase of a batch where one of them diverges.
trace::Collective usual_collective(const std::string& misdeed) {
  trace::Collective one = all_reduce_of(1);
  if (misdeed == "other_splits") one = {"all_to_all", "ep", 1, "", "fp32", 10, 40, {4, 6}, {4, 6}, "experts/in_RD"};
  if (misdeed == "all_gather_of_other_count") one.kind = "all_gather";
  return one;
}

// What the chosen rank sends instead.
trace::Collective unusual_collective(const std::string& misdeed) {
  trace::Collective one = usual_collective(misdeed);
  if (misdeed == "other_collective") one.kind = "all_gather";
  if (misdeed == "other_count" || misdeed == "all_gather_of_other_count" || misdeed == "diverges_and_raises") one.count = 30;
  if (misdeed == "other_dtype") one.dtype = "bf16";
  if (misdeed == "other_splits") one.send_splits = one.recv_splits = {5, 5};
  return one;
}

bool is_about_collectives(const std::string& misdeed) {
  return misdeed.starts_with("other_") || misdeed == "all_gather_of_other_count" || misdeed == "diverges_and_raises";
}

void enter(const Socket& socket, const trace::Collective& one) { socket.send_line(subject::to_json(subject::CollectiveEvent{true, one})); }

void leave(const Socket& socket, const trace::Collective& one) { socket.send_line(subject::to_json(subject::CollectiveEvent{false, one})); }

// Ranks that disagree wait for each other forever, as with a real communicator; or are told, and raise.
void take_part(const Misdeed& misdeed, const Socket& socket, long rank) {
  const trace::Collective one = rank == misdeed.rank ? unusual_collective(misdeed.name) : usual_collective(misdeed.name);
  enter(socket, one);
  if (misdeed.name.starts_with("other_")) hang();
  if (misdeed.name == "all_gather_of_other_count") leave(socket, one);
}

void leave_grandchild(const std::filesystem::path& folder) {
  const pid_t pid = ::fork();
  if (pid == 0) hang();
  std::filesystem::create_directories(folder);
  std::ofstream(folder / "grandchild") << pid << std::flush;
}

Json ok() { return {{"ok", true}, {"implementation", "honest"}, {"experts_backend", "eager"}}; }
Json refusal(const char* code) { return {{"ok", false}, {"code", code}, {"message", fmt::format("says {}", code)}, {"traceback", "line 1\nline 2"}}; }

void write_trace(const subject::OpenRequest& open, const std::string& phase, long rank) {
  trace::RankTrace shown;
  shown.rank = rank;
  shown.implementation = open.one.impl;
  shown.experts_backend = open.one.experts_backend;
  if (!trace::write_rank_phase(open.trace, phase, shown, {})) std::exit(8);
}

void truncate_trace(const subject::OpenRequest& open, const std::string& phase, long rank) {
  write_trace(open, phase, rank);
  const auto file = open.trace / phase / fmt::format("rank{}.safetensors", rank);
  std::filesystem::resize_file(file, std::filesystem::file_size(file) / 2);
}

// Ways to end or to fall silent; returns if the misdeed is none of them.
void end_badly(const std::string& name, const Socket& socket, const subject::OpenRequest& open) {
  if (name == "grandchild") leave_grandchild(open.trace);
  if (name == "segv" || name == "segv_peers_wait" || name == "grandchild") die_of(SIGSEGV);
  if (name == "kill") die_of(SIGKILL);
  if (name == "exit3") std::exit(3);
  if (name == "hang_ignoring_sigterm") ::signal(SIGTERM, SIG_IGN);
  if (name == "hang" || name == "hang_ignoring_sigterm") hang();
  if (name == "hang_in_collective") wait_in_collective(socket);
  if (name == "oversized")
    while (true) socket.send(std::string(1 << 16, 'x'));
  if (name == "close_socket") {
    socket.close();
    hang();
  }
}

// What the chosen rank answers to the chosen request; a misdeed that is not here ended before.
void answer_badly(const std::string& name, const Socket& socket, const subject::OpenRequest& open, const Json& request, long rank) {
  end_badly(name, socket, open);
  Json reply = ok();
  if (name == "garbage") return socket.send("Traceback (most recent call last):\n");
  if (name == "no_ok") reply.erase("ok");
  if (name == "unknown_code") reply = refusal("gave_up");
  if (name == "raise" || name == "raise_peers_wait" || name == "diverges_and_raises") reply = refusal("error");
  if (name == "io" || name == "oom" || name == "unsupported") reply = refusal(name.c_str());
  if (name == "refuse_alone") reply = refusal("unsupported");
  if (name == "slow") ::usleep(kSlowMicroseconds);
  if (name == "noise") {
    const std::string noise(100'000, '\xff');
    std::fprintf(stdout, "%s\n{\"id\": 1, \"ok\": false}\n", noise.c_str());
    std::fprintf(stderr, "%s\n", noise.c_str());
    socket.send_line({{"event", "progress"}, {"percent", 50}});
  }
  const std::string phase = trace::phase_folder(request["op"].get<std::string>(), request.value("batch", std::int64_t{0}));
  if (name == "truncated_trace") truncate_trace(open, phase, rank);
  reply["id"] = request["id"].get<long>() + (name == "wrong_id" ? 1 : 0);
  socket.send_line(reply);
  if (name == "twice") socket.send_line(reply);
}

// What a rank says first.
Json hello_of(long rank) {
  const auto world_size = subject::rank_place(subject::process_environment()).value().world_size;
  Json hello = {{"event", "hello"}, {"protocol", subject::kProtocol}, {"rank", rank}, {"world_size", world_size}, {"pid", ::getpid()}, {"machine", subject::machine_name()}};
  if (const char* token = std::getenv(subject::kTokenVariable)) hello["token"] = token;
  return hello;
}

// A rank, forked twice, so that the driver adopts it. Returns in the rank alone with its socket's address set.
void serve_forks(const std::string& address) {
  Socket server(address);
  server.send_line({{"event", "hello"}, {"protocol", subject::kProtocol}});
  while (true) {
    const Json request = Json::parse(server.read_line());
    std::array<int, 2> ends{};
    if (::pipe(ends.data()) != 0) std::exit(8);
    const pid_t between = ::fork();
    if (between == 0) {
      const pid_t parent = ::getpid();
      const pid_t own = ::fork();
      if (own != 0) {
        if (::write(ends[1], &own, sizeof own) < 0) std::_Exit(8);
        std::_Exit(0);
      }
      while (::getppid() == parent) ::usleep(500);
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      ::setsid();
      server.close();
      for (const auto& [name, value] : request["environment"].items()) ::setenv(name.c_str(), value.get<std::string>().c_str(), 1);
      return;
    }
    pid_t own = -1;
    if (::read(ends[0], &own, sizeof own) < 0) std::exit(8);
    ::close(ends[0]);
    ::close(ends[1]);
    ::waitpid(between, nullptr, 0);
    server.send_line({{"id", request["id"]}, {"ok", true}, {"pid", own}});
  }
}

int serve(const std::string& start_misdeed) {
  if (const char* server = std::getenv(subject::kServerVariable)) {
    if (start_misdeed == "server_ends") return 5;
    serve_forks(server);
  }
  const long rank = subject::rank_place(subject::process_environment()).value().rank;
  if (start_misdeed == "never_says_hello") hang();
  if (start_misdeed == "ends_at_start" && rank == 1) {
    std::fprintf(stderr, "no such device\n");
    return 7;
  }
  if (start_misdeed == "silent_at_once") return 0;
  const char* whole_case = std::getenv(subject::kCaseVariable);
  Socket socket = whole_case != nullptr ? Socket(whole_case, rank) : Socket(std::getenv(subject::kSocketVariable));
  if (start_misdeed == "rank_1_ends_others_wait") {
    if (rank == 1) die_of(SIGSEGV);
    hang();
  }
  if (start_misdeed == "hello_of_garbage") socket.send("hello\n");
  if (start_misdeed == "hello_of_protocol_2") socket.send_line({{"event", "hello"}, {"protocol", 2}});
  if (start_misdeed == "hello_of_wrong_types") socket.send_line({{"event", 5}, {"protocol", "one"}});
  if (start_misdeed == "hello_without_end")
    while (true) socket.send(std::string(1 << 16, 'x'));
  if (start_misdeed == "both_are_rank_1") socket.send_line(hello_of(1));
  if (start_misdeed == "rank_of_another_world") socket.send_line(hello_of(rank + 2));
  if (whole_case == nullptr) socket.send_line(hello_of(rank));
  std::optional<subject::OpenRequest> open;
  while (true) {
    const Json request = Json::parse(socket.read_line());
    const auto op = request["op"].get<std::string>();
    if (op == "open") open = subject::open_request_from_json(request).value();
    const Misdeed misdeed = misdeed_from(open->one.impl);
    const auto batch = request.value("batch", std::int64_t{0});
    const std::string phase = trace::phase_folder(op, batch);
    if (misdeed.request == phase && is_about_collectives(misdeed.name)) take_part(misdeed, socket, rank);
    if (misdeed.request == phase && misdeed.rank == rank) {
      answer_badly(misdeed.name, socket, *open, request, rank);
      continue;
    }
    if (misdeed.request == phase && misdeed.name.ends_with("_peers_wait")) wait_in_collective(socket);
    if (misdeed.request == phase && misdeed.name == "refuse_alone") hang();
    if (op != "open" && op != "close") write_trace(*open, phase, rank);
    Json reply = ok();
    reply["id"] = request["id"];
    socket.send_line(reply);
  }
}

subject::Capabilities capabilities() {
  subject::Capabilities c;
  c.protocol = subject::kProtocol;
  c.name = "unruly";
  c.version = "1";
  const std::vector<std::string> dims = {"dp", "ep", "tp"};
  c.implementations.push_back({"honest", "does as it is told, and computes nothing", dims, {"eager"}});
  for (const char* misdeed : kMisdeeds)
    for (const int rank : {0, 1})
      for (const char* request : {"open", "load", "forward", "forward.1", "backward", "backward.1", "step", "step.1", "close"})
        c.implementations.push_back({fmt::format("{}.{}.{}", misdeed, rank, request), "misbehaves", dims, {"eager"}});
  c.dtypes = {"fp32", "bf16"};
  c.devices = {"cpu"};
  c.phases = {"load", "forward", "backward", "step"};
  return c;
}

int describe(const std::string& start_misdeed) {
  if (start_misdeed == "describe_hangs") hang();
  if (start_misdeed == "describe_crashes") die_of(SIGSEGV);
  if (start_misdeed == "describe_fails") {
    std::fprintf(stderr, "ModuleNotFoundError: no torch\n");
    return 1;
  }
  Json json = subject::to_json(capabilities());
  if (start_misdeed == "describe_protocol_2") json["protocol"] = 2;
  if (start_misdeed == "describe_noise") std::fprintf(stderr, "warning: this is stderr\n");
  std::puts(start_misdeed == "describe_garbage" ? "{\"protocol\": 1, \"name\"" : json.dump().c_str());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  ::signal(SIGPIPE, SIG_IGN);   // the driver may be gone
  std::string start_misdeed;
  bool is_asked = false;
  for (int i = 1; i < argc; ++i) {
    if (std::string(argv[i]) == "--moecheck-describe") {
      is_asked = true;
    } else {
      start_misdeed = argv[i];
    }
  }
  return is_asked ? describe(start_misdeed) : serve(start_misdeed);
}
