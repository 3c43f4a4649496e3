#include "harness/launch/child_process.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fmt/format.h>

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wunused-parameter"
#define BOOST_PROCESS_V2_SEPARATE_COMPILATION  // this is the only unit; src.hpp brings the rest
#include <boost/asio/io_context.hpp>
#include <boost/process/v2/environment.hpp>
#include <boost/process/v2/process.hpp>
#include <boost/process/v2/src.hpp>
#include <boost/process/v2/stdio.hpp>
#pragma GCC diagnostic pop

#include "harness/base/files.h"
#include "harness/launch/interrupts.h"
#include "harness/launch/output_tail.h"

namespace moecheck::launch {
namespace {

namespace bp = boost::process::v2;

// How often a wait looks for an interrupt, whose signal another thread may have taken.
constexpr std::chrono::milliseconds kLook{100};

// Runs in the child between fork and exec: only async-signal-safe calls.
struct OwnSession {
  pid_t parent = ::getpid();

  template <typename Launcher>
  bp::error_code on_exec_setup(Launcher&, const bp::filesystem::path&, const char* const*(&)) {
    // Boost.Process closes only what lies above its own pipe. Without this, a pipe that another thread is about to use
    // would live on in a rank and that thread wait for its end forever.
    ::close_range(STDERR_FILENO + 1, ~0U, CLOSE_RANGE_CLOEXEC);
    ::setsid();
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(127);  // the parent died before prctl
    sigset_t none;
    sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    ::signal(SIGINT, SIG_DFL);
    ::signal(SIGTERM, SIG_DFL);
    return {};
  }

  // Without the parent's exit handlers.
  template <typename Launcher>
  void on_exec_error(Launcher&, const bp::filesystem::path&, const char* const*(&), const bp::error_code&) {
    ::_exit(127);
  }
};

// A file of the child while it is started.
class Stream {
 public:
  explicit Stream(int fd) : fd_(fd) {}
  Stream(Stream&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Stream& operator=(Stream&&) = delete;
  ~Stream() {
    if (fd_ >= 0) ::close(fd_);
  }
  static base::Result<Stream> append_to(const std::filesystem::path& path) {
    const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (fd < 0) return base::Error{base::ErrorCode::kIo, std::strerror(errno), path.string()};
    return Stream(fd);
  }
  int fd() const { return fd_; }

 private:
  int fd_;
};

std::vector<bp::environment::key_value_pair> environment_of(const ChildCommand& command) {
  std::vector<bp::environment::key_value_pair> merged;
  for (const auto pair : bp::environment::current()) {
    const std::string name(bp::environment::key(pair.key()).string());
    if (!command.environment.contains(name) && std::ranges::find(command.removed, name) == command.removed.end()) merged.emplace_back(pair);
  }
  for (const auto& [key, value] : command.environment) merged.emplace_back(bp::environment::key(key), bp::environment::value(value));
  return merged;
}

}  // namespace

std::string ChildExit::text() const {
  return signal != 0 ? fmt::format("signal {} ({})", signal, ::strsignal(signal)) : fmt::format("exit code {}", exit_code);
}

base::Result<ChildProcess> ChildProcess::start(const ChildCommand& command) {
  MOECHECK_REQUIRE(!command.arguments.empty());
  const std::string& name = command.arguments[0];
  const auto program = name.find('/') == std::string::npos ? bp::environment::find_executable(name) : bp::filesystem::path(name);
  if (program.empty() || ::access(program.c_str(), X_OK) != 0)
    return base::Error{base::ErrorCode::kIo, "there is no program of this name, or it may not be run", name};
  const auto output = Stream::append_to(command.output);
  if (!output) return output.error();
  const auto errors = Stream::append_to(command.errors.empty() ? command.output : command.errors);
  if (!errors) return errors.error();
  const Stream input(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  boost::asio::io_context context;
  bp::error_code code;
  bp::default_process_launcher launcher;
  const std::vector<std::string> arguments(command.arguments.begin() + 1, command.arguments.end());
  auto process = launcher(context.get_executor(), code, program, arguments, bp::process_stdio{input.fd(), output->fd(), errors->fd()},
                          bp::process_environment(environment_of(command)), OwnSession{});
  if (code) return base::Error{base::ErrorCode::kIo, "cannot start: " + code.message(), name};
  const int pid = process.id();
  process.detach();  // waiting is ours
  const int pidfd = static_cast<int>(::syscall(SYS_pidfd_open, pid, 0));
  if (pidfd < 0) {
    const int reason = errno;
    ::kill(-pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
    return base::Error{base::ErrorCode::kIo, fmt::format("pidfd_open: {}", std::strerror(reason)), name};
  }
  ::fcntl(pidfd, F_SETFD, FD_CLOEXEC);
  return ChildProcess(pid, pidfd);
}

base::Result<ChildProcess> ChildProcess::adopt(int pid) {
  const auto none = [&](const char* why) { return base::Error{base::ErrorCode::kSubject, fmt::format("process {} cannot be adopted: {}", pid, why), ""}; };
  const int pidfd = pid > 0 ? static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)) : -1;
  if (pidfd < 0) return none("it is not there");
  ::fcntl(pidfd, F_SETFD, FD_CLOEXEC);
  siginfo_t info{};
  if (::waitid(P_PIDFD, static_cast<id_t>(pidfd), &info, WEXITED | WNOHANG | WNOWAIT) != 0) {
    ::close(pidfd);
    return none("it is no child of this process");
  }
  return ChildProcess(pid, pidfd);
}

ChildProcess::ChildProcess(ChildProcess&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)), pidfd_(std::exchange(other.pidfd_, -1)), exit_(std::exchange(other.exit_, std::nullopt)) {}

ChildProcess& ChildProcess::operator=(ChildProcess&& other) noexcept {
  if (this != &other) {
    end();
    pid_ = std::exchange(other.pid_, -1);
    pidfd_ = std::exchange(other.pidfd_, -1);
    exit_ = std::exchange(other.exit_, std::nullopt);
  }
  return *this;
}

ChildProcess::~ChildProcess() { end(); }

void ChildProcess::end() {
  if (pid_ < 0) return;
  kill_group();
  while (!exit_ && !exited()) {
    pollfd fd{pidfd_, POLLIN, 0};
    ::poll(&fd, 1, -1);
  }
  ::close(pidfd_);
  pid_ = -1;
}

void ChildProcess::kill_group() {
  // A reaped leader's number may already belong to somebody else.
  if (pid_ > 0 && !exit_) ::kill(-pid_, SIGKILL);
}

void ChildProcess::terminate(std::chrono::milliseconds grace) {
  if (pid_ < 0 || exit_) return;
  ::kill(pid_, SIGTERM);
  wait_for(grace);
}

std::optional<ChildExit> ChildProcess::exited() {
  if (exit_) return exit_;
  siginfo_t info{};
  const auto id = static_cast<id_t>(pidfd_);
  if (::waitid(P_PIDFD, id, &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid == 0) return std::nullopt;
  // Its own children may still be there; until it is reaped the group's number is surely theirs.
  kill_group();
  exit_ = info.si_code == CLD_EXITED ? ChildExit{info.si_status, 0} : ChildExit{0, info.si_status};
  ::waitid(P_PIDFD, id, &info, WEXITED | WNOHANG);
  return exit_;
}

std::optional<ChildExit> ChildProcess::wait_for(std::chrono::milliseconds limit) {
  const auto deadline = std::chrono::steady_clock::now() + limit;
  while (!exited()) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    if (left.count() <= 0) return std::nullopt;
    pollfd fd{pidfd_, POLLIN, 0};
    ::poll(&fd, 1, static_cast<int>(left.count()));
  }
  return exit_;
}

base::Result<std::string> run_and_read(ChildCommand command, const std::filesystem::path& scratch, std::chrono::milliseconds limit) {
  command.output = scratch;
  command.errors = scratch.string() + ".err";
  std::error_code code;
  std::filesystem::remove(command.output, code);
  std::filesystem::remove(command.errors, code);
  auto child = ChildProcess::start(command);
  if (!child) return child.error();
  const auto deadline = std::chrono::steady_clock::now() + limit;
  while (!child->wait_for(kLook) && std::chrono::steady_clock::now() < deadline)
    if (num_interrupts() > 0) return base::Error{base::ErrorCode::kInterrupted, "interrupted", command.arguments[0]};
  const auto exit = child->exited();
  auto text = base::read_file(command.output);
  if (!text) return text.error();
  const std::string errors = output_tail(command.errors);
  const std::string said = errors.empty() ? output_tail(command.output) : errors;
  if (!exit) return base::Error{base::ErrorCode::kSubject, fmt::format("no answer within {} ms: {}", limit.count(), said), command.arguments[0]};
  if (exit->signal != 0 || exit->exit_code != 0)
    return base::Error{base::ErrorCode::kSubject, fmt::format("ended with {}: {}", exit->text(), said), command.arguments[0]};
  return text;
}

}  // namespace moecheck::launch
