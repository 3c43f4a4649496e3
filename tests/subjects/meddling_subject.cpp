// A sound subject with somebody in between who misbehaves as asked, to test what the conformance kit makes of it.
//
//   meddling_subject MISDEED CMD...      MISDEED: see kMisdeeds; CMD is the subject behind it, started once a rank as this is
//
// Lines are handed on in both directions but for the misdeed. --moecheck-describe is handed on with one implementation and fp32 alone, so that
// little is run.
#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <optional>
#include <poll.h>
#include <string>
#include <string_view>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

#include "harness/base/json.h"
#include "harness/trace/safetensors.h"

namespace {

namespace fs = std::filesystem;
using moecheck::base::Json;
namespace trace = moecheck::trace;

constexpr std::array kMisdeeds = {
    "none",
    "describe_prints_more", "describe_changes", "describe_unknown_mesh_dim", "describe_no_backends", "describe_no_implementation", "describe_no_load",
    "refuses_everything",           // every open, with a reason
    "refuses_without_a_reason",     // every open
    "wrong_weights",                // shows another router than it loaded
    "runs_something_else",          // what it is asked for and does not have it runs with the first that it has
    "raises_instead_of_refusing",   // with code "error"
    "dies_of_unknown_operation",    // exits
    "hangs_on_forward_before_open",
    "dies_of_second_close",
    "spoilt_by_disorder",           // shows another router after something was asked for in a wrong order
    "dies_without_tokens",
    "quiets_nan",                   // shows NaN without payload
    "flushes_subnormals",
    "forgets_sign_of_zero",
    "outlives_crash",               // a process in a session of its own lives on
    "breaks_after_crash",           // leaves a file in a forward that it finds in the next case
    "impatient",                    // exits where a forward took longer than it likes
    "dies_of_full_disk",            // prints, and exits if that fails
    "dies_of_closed_output",
    "cuts_large",                   // shows the first half of a large parameter
};

constexpr std::chrono::milliseconds kPatience{200};
constexpr std::size_t kLarge = std::size_t{1} << 30;

[[noreturn]] void hang() {
  while (true) ::pause();
}

sockaddr_un address_of(const std::string& path) {
  sockaddr_un at{};
  at.sun_family = AF_UNIX;
  std::memcpy(at.sun_path, path.data(), std::min(path.size(), sizeof at.sun_path - 1));
  return at;
}

void send_line(int fd, const Json& message) {
  const std::string line = message.dump() + "\n";
  if (::write(fd, line.data(), line.size()) != static_cast<ssize_t>(line.size())) std::exit(0);
}

// Empty at the end.
std::optional<std::string> read_line(int fd) {
  std::string line;
  for (char c = 0; ::read(fd, &c, 1) == 1;) {
    if (c == '\n') return line;
    line += c;
  }
  return std::nullopt;
}

// The subject's own ranks are started with a socket of this program's.
int start_behind(const std::vector<std::string>& command) {
  const std::string path = std::string(std::getenv("MOECHECK_SOCKET")) + "m";
  const sockaddr_un at = address_of(path);
  const int listener = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (::bind(listener, reinterpret_cast<const sockaddr*>(&at), sizeof at) != 0 || ::listen(listener, 1) != 0) std::exit(9);
  if (::fork() == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::setenv("MOECHECK_SOCKET", path.c_str(), 1);
    std::vector<char*> arguments;
    for (const std::string& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
    arguments.push_back(nullptr);
    ::execv(arguments[0], arguments.data());
    ::_exit(127);
  }
  return ::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
}

int connect_to_driver() {
  const sockaddr_un at = address_of(std::getenv("MOECHECK_SOCKET"));
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (::connect(fd, reinterpret_cast<const sockaddr*>(&at), sizeof at) != 0) std::exit(9);
  return fd;
}

// Rewrites an element in what was shown of a load.
using Spoil = std::uint32_t (*)(std::uint32_t bits);

std::uint32_t quiet(std::uint32_t bits) { return (bits & 0x7fffffffU) > 0x7f800000U ? 0x7fc00000U : bits; }
std::uint32_t flush(std::uint32_t bits) { return (bits & 0x7f800000U) == 0 ? bits & 0x80000000U : bits; }
std::uint32_t unsign(std::uint32_t bits) { return bits == 0x80000000U ? 0 : bits; }
std::uint32_t other(std::uint32_t bits) { return bits ^ 0x00400000U; }

void rewrite_load(const fs::path& folder, const std::string& rank, Spoil spoil, std::string_view tap) {
  const fs::path file = folder / "load" / ("rank" + rank + ".safetensors");
  const auto shown = trace::read_safetensors(file);
  if (!shown) return;
  std::vector<trace::NamedTensor> tensors;
  for (const auto& [name, tensor] : shown->tensors) {
    moecheck::base::HostTensor copy(tensor.dtype(), tensor.shape());
    std::ranges::copy(tensor.bytes(), copy.mutable_bytes().begin());
    if (name.find(tap) != std::string::npos && tensor.dtype() == moecheck::base::DType::kF32)
      for (std::uint32_t& bits : copy.mutable_view<std::uint32_t>()) bits = spoil(bits);
    tensors.push_back({name, std::move(copy)});
  }
  if (!trace::write_safetensors(file, tensors, shown->metadata)) std::exit(8);
}

void cut_large(const fs::path& folder, const std::string& rank) {
  const fs::path file = folder / "load" / ("rank" + rank + ".safetensors");
  const auto shown = trace::read_safetensors(file);
  if (!shown) return;
  std::vector<trace::NamedTensor> tensors;
  for (const auto& [name, tensor] : shown->tensors) {
    auto shape = tensor.shape();
    if (tensor.num_bytes() >= kLarge) shape[0] /= 2;
    moecheck::base::HostTensor copy(tensor.dtype(), shape);
    std::memcpy(copy.mutable_bytes().data(), tensor.bytes().data(), copy.num_bytes());
    tensors.push_back({name, std::move(copy)});
  }
  if (!trace::write_safetensors(file, tensors, shown->metadata)) std::exit(8);
}

Json refusal(const char* code, const char* text) { return {{"ok", false}, {"code", code}, {"message", text}, {"traceback", ""}}; }

class Meddler {
 public:
  Meddler(std::string misdeed, const std::vector<std::string>& command) : misdeed_(std::move(misdeed)), rank_(std::getenv("RANK")) {
    // Before a socket is opened in its place.
    const bool has_output = ::fcntl(STDOUT_FILENO, F_GETFD) >= 0;
    if (misdeed_ == "dies_of_closed_output" && !has_output) std::exit(5);
    if (misdeed_ == "dies_of_full_disk" && has_output && (std::fputs("ready\n", stdout) < 0 || std::fflush(stdout) != 0)) std::exit(5);
    behind_ = start_behind(command);
    driver_ = connect_to_driver();
  }

  int run() {
    while (true) {
      std::array<pollfd, 2> fds = {pollfd{driver_, POLLIN, 0}, pollfd{behind_, POLLIN, 0}};
      ::poll(fds.data(), fds.size(), -1);
      if (misdeed_ == "impatient" && is_in_forward_ && Clock::now() - asked_ > kPatience) return 6;
      if (fds[0].revents != 0) {
        const auto line = read_line(driver_);
        if (!line) return 0;
        if (const auto own = own_answer(Json::parse(*line))) {
          send_line(driver_, *own);
        } else {
          send_line(behind_, request_);
        }
      }
      if (fds[1].revents == 0) continue;
      const auto line = read_line(behind_);
      if (!line) return 1;
      send_line(driver_, meddled(Json::parse(*line)));
    }
  }

 private:
  using Clock = std::chrono::steady_clock;

  Json answered(Json message) const {
    message["id"] = request_["id"];
    return message;
  }

  // What is answered without asking the subject behind; request_ is what that is asked otherwise.
  std::optional<Json> own_answer(Json request) {
    request_ = std::move(request);
    const auto op = request_["op"].get<std::string>();
    asked_ = Clock::now();
    is_in_forward_ = op == "forward";
    if (!is_open_ && op != "open" && op != "close") is_in_disorder_ = true;
    if (misdeed_ == "dies_of_unknown_operation" && op == "levitate") std::exit(3);
    if (misdeed_ == "hangs_on_forward_before_open" && op == "forward" && !is_open_) hang();
    if (misdeed_ == "dies_of_second_close" && op == "close" && !is_open_) std::exit(3);
    if (misdeed_ == "outlives_crash" && op == "forward" && ::fork() == 0) {
      ::setsid();
      ::close(driver_);
      hang();
    }
    if (misdeed_ == "breaks_after_crash" && op == "forward") std::fclose(std::fopen(mark().c_str(), "w"));
    if (misdeed_ == "breaks_after_crash" && op == "close") fs::remove(mark());
    if (op == "close") is_open_ = false;
    return op == "open" ? answer_to_open() : std::nullopt;
  }

  // Left behind by a rank that did not come to its close.
  std::string mark() const { return (fs::path(request_.value("checkpoint", checkpoint_)).parent_path() / ("mark" + rank_)).string(); }

  std::optional<Json> answer_to_open() {
    is_open_ = true;
    trace_ = request_["trace"].get<std::string>();
    checkpoint_ = request_["checkpoint"].get<std::string>();
    Json& config = request_["config"];
    if (misdeed_ == "refuses_everything") return answered(refusal("unsupported", "not today"));
    if (misdeed_ == "refuses_without_a_reason") return answered(refusal("unsupported", ""));
    if (misdeed_ == "breaks_after_crash" && fs::exists(mark())) return answered(refusal("error", "a lock is held"));
    if (misdeed_ == "dies_without_tokens" && config["tokens"] == "7,0" && rank_ == "1") std::exit(3);
    // The subject behind has them, and the description here leaves them out.
    if (config["dtype"] != "fp32" || config["experts_backend"] == "batched_mm" || config["experts_backend"] == "grouped_mm")
      return answered(refusal("unsupported", "only fp32 and eager here"));
    const bool is_foreign = config["impl"] == "of_nobody" || config["experts_backend"] == "of_nobody" || config["fault"] == "of_nobody";
    if (misdeed_ == "raises_instead_of_refusing" && is_foreign) return answered(refusal("error", "KeyError: of_nobody"));
    if (misdeed_ == "runs_something_else" && is_foreign) {
      if (config["impl"] == "of_nobody") config["impl"] = "ep_allreduce";
      if (config["experts_backend"] == "of_nobody") config["experts_backend"] = "eager";
      if (config["fault"] == "of_nobody") config["fault"] = "none";
    }
    return std::nullopt;
  }

  // What the driver hears of what the subject behind says.
  Json meddled(Json message) {
    if (message.contains("event")) return message;
    is_in_forward_ = false;
    if (request_["op"] != "load") return message;
    if (misdeed_ == "wrong_weights" || (misdeed_ == "spoilt_by_disorder" && is_in_disorder_)) rewrite_load(trace_, rank_, other, "router");
    if (misdeed_ == "quiets_nan") rewrite_load(trace_, rank_, quiet, "param/");
    if (misdeed_ == "flushes_subnormals") rewrite_load(trace_, rank_, flush, "param/");
    if (misdeed_ == "forgets_sign_of_zero") rewrite_load(trace_, rank_, unsign, "param/");
    if (misdeed_ == "cuts_large") cut_large(trace_, rank_);
    return message;
  }

  std::string misdeed_;
  std::string rank_;
  int driver_ = -1;
  int behind_ = -1;
  Json request_;
  std::string trace_;
  std::string checkpoint_;
  Clock::time_point asked_;
  bool is_open_ = false;
  bool is_in_forward_ = false;
  bool is_in_disorder_ = false;
};

// The description of the subject behind, with ep_allreduce and fp32 alone.
int describe(const std::string& misdeed, const std::vector<std::string>& command) {
  std::string line;
  for (const std::string& word : command) line += "'" + word + "' ";
  FILE* said = ::popen((line + "--moecheck-describe").c_str(), "r");
  std::string text;
  std::array<char, 4096> buffer{};
  for (std::size_t n = 0; (n = std::fread(buffer.data(), 1, buffer.size(), said)) > 0;) text.append(buffer.data(), n);
  if (::pclose(said) != 0) return 1;
  Json json = Json::parse(text);
  Json& implementations = json["implementations"];
  for (std::size_t i = implementations.size(); i-- > 0;)
    if (implementations[i]["name"] != "ep_allreduce") implementations.erase(i);
  if (misdeed == "describe_unknown_mesh_dim") implementations[0]["mesh_dims"] = {"ep", "pp"};
  implementations[0]["experts_backends"] = {"eager"};
  json["dtypes"] = {"fp32"};
  json["faults"] = Json::array();
  if (misdeed == "describe_changes") json["version"] = std::to_string(::getpid());
  if (misdeed == "describe_no_backends") implementations[0]["experts_backends"] = Json::array();
  if (misdeed == "describe_no_implementation") implementations = Json::array();
  if (misdeed == "describe_no_load") json["phases"] = {"forward"};
  std::printf("%s%s\n", misdeed == "describe_prints_more" ? "loading...\n" : "", json.dump().c_str());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  ::signal(SIGPIPE, SIG_IGN);
  ::signal(SIGCHLD, SIG_DFL);
  std::vector<std::string> command;
  bool is_asked = false;
  for (int i = 2; i < argc; ++i) {
    if (std::string_view(argv[i]) == "--moecheck-describe") {
      is_asked = true;
    } else {
      command.emplace_back(argv[i]);
    }
  }
  if (argc < 3 || command.empty() || std::ranges::find(kMisdeeds, std::string_view(argv[1])) == kMisdeeds.end()) return 4;
  return is_asked ? describe(argv[1], command) : Meddler(argv[1], command).run();
}
