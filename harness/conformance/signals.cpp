#include "harness/conformance/signals.h"

#include <charconv>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <sstream>
#include <thread>
#include <unistd.h>

#include <fmt/format.h>

#include "harness/base/files.h"
#include "harness/subject/protocol.h"

namespace moecheck::conformance {
namespace {

namespace fs = std::filesystem;

// For a rank to come to its first collective, where it has one.
constexpr std::chrono::milliseconds kUntilCollective{50};

// A process that ended and was not waited for is none.
bool leads_back_to(const fs::path& process, const std::set<int>& sessions) {
  const auto stat = base::read_file(process / "stat");
  if (!stat) return false;
  const auto name_end = stat->rfind(')');
  if (name_end == std::string::npos) return false;
  std::istringstream fields(stat->substr(name_end + 1));
  char state = 0;
  int parent = 0, group = 0, session = 0;
  fields >> state >> parent >> group >> session;
  return state != 'Z' && state != 'X' && sessions.contains(session);
}

bool has_socket_below(const fs::path& process, const std::string& scratch) {
  const auto environment = base::read_file(process / "environ");
  return environment && environment->find(fmt::format("{}={}", subject::kSocketVariable, scratch)) != std::string::npos;
}

}  // namespace

launch::SentObserver Blow::observer() {
  return [this](const base::Json& request, const std::vector<int>& processes) {
    processes_.insert(processes.begin(), processes.end());
    if (!has_struck_ && request.value("op", "") == "forward" && !processes.empty()) in_forward(processes);
  };
}

// The first rank stands still meanwhile, so that the last one waits for it in its first collective instead of being done.
void Blow::in_forward(const std::vector<int>& processes) {
  has_struck_ = true;
  rank_ = static_cast<int>(processes.size()) - 1;
  const bool has_peer = rank_ > 0;
  if (has_peer) ::kill(processes.front(), SIGSTOP);
  std::this_thread::sleep_for(kUntilCollective);
  strike_(processes.back());
  if (has_peer) ::kill(processes.front(), SIGCONT);
}

std::vector<int> left_running(const std::set<int>& ranks, const std::string& scratch) {
  std::vector<int> found;
  std::error_code code;
  for (const auto& entry : fs::directory_iterator("/proc", code)) {
    const std::string name = entry.path().filename();
    int pid = 0;
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), pid);
    if (error != std::errc{} || end != name.data() + name.size() || pid == ::getpid()) continue;
    if (leads_back_to(entry.path(), ranks) || has_socket_below(entry.path(), scratch)) found.push_back(pid);
  }
  return found;
}

}  // namespace moecheck::conformance
