// moecheck-rank: one rank of the in-tree implementations, over the same protocol as every other subject.
//
// Two environment variables are for ci/bench only, which measures what recording and poisoning cost:
//   MOECHECK_BENCH_NO_TRACE=1   shows nothing and writes no trace; nothing can be judged, so that no such run can pass
//   MOECHECK_BENCH_NO_POISON=1  leaves fresh memory as it is; runs can pass, and their record names the subject "without poison"
#include <cstdio>
#include <cstdlib>
#include <malloc.h>
#include <string>
#include <unistd.h>

#include <ATen/Context.h>
#include <ATen/Parallel.h>

#include "parallel_impls/rank/line_socket.h"
#include "parallel_impls/rank/session.h"

namespace {

using moecheck::base::Json;
using moecheck::parallel_impls::Recording;
using moecheck::parallel_impls::Session;
using moecheck::subject::Reply;

constexpr const char* kNoTraceVariable = "MOECHECK_BENCH_NO_TRACE";
constexpr const char* kNoPoisonVariable = "MOECHECK_BENCH_NO_POISON";

bool is_set(const char* name) {
  const char* text = std::getenv(name);
  return text != nullptr && std::string(text) == "1";
}

constexpr int kKeptBytes = 512 << 20;

// Large blocks come from the heap, of which that much is not given back: a warm rank reuses its pages where a mapping for each tensor and
// tap would have the kernel clear new ones, which took longer than computing.
void keep_freed_memory() {
  ::mallopt(M_MMAP_MAX, 0);
  ::mallopt(M_TRIM_THRESHOLD, kKeptBytes);
}

// Every allocation is filled with NaN; what nobody wrote cannot pass for a number.
void poison_fresh_memory() {
  at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/true);
  at::globalContext().setDeterministicFillUninitializedMemory(true);
}

long environment_number(const char* name) {
  const char* text = std::getenv(name);
  if (text == nullptr) {
    std::fprintf(stderr, "moecheck-rank: %s is not set; this program is started by moecheck, or ask it for --moecheck-describe\n", name);
    std::exit(4);
  }
  return std::strtol(text, nullptr, 10);
}

Reply handle(Session& session, const Json& request) {
  const auto op = request.at("op").get<std::string>();
  if (op == "open") {
    auto open = moecheck::subject::open_request_from_json(request);
    if (!open) return {false, "unsupported", "this rank does not understand the case: " + open.error().text(), "", "", "", {}};
    return session.open(*open);
  }
  if (op == "close") {
    session.close();
    return {true, "", "", "", "", "", {}};
  }
  if (op == "load") return session.load(request.value("resume", ""));
  if (op == "save") {
    const auto hold_at = moecheck::cases::find_crash_point(request.value("hold_at", "none"));
    if (!hold_at) return {false, "unsupported", "this rank knows no such point of a save", "", "", "", {}};
    return session.save(request.at("folder").get<std::string>(), request.value("batch", moecheck::model::Dim{0}), *hold_at);
  }
  return session.run_phase(op, request.value("batch", moecheck::model::Dim{0}));
}

// The one place where exceptions end.
Reply answer(Session& session, const Json& request) {
  try {
    return handle(session, request);
  } catch (const moecheck::parallel_impls::Unsupported& e) {
    return {false, "unsupported", e.what(), "", "", "", {}};
  } catch (const moecheck::parallel_impls::FileFailure& e) {
    return {false, "io", e.what(), "", "", "", {}};
  } catch (const c10::OutOfMemoryError& e) {
    return {false, "oom", e.what_without_backtrace(), e.what(), "", "", {}};
  } catch (const c10::Error& e) {
    return {false, "error", e.what_without_backtrace(), e.what(), "", "", {}};
  } catch (const std::bad_alloc& e) {
    return {false, "oom", e.what(), "", "", "", {}};
  } catch (const std::exception& e) {
    return {false, "error", e.what(), "", "", "", {}};
  }
}

int serve(const std::string& socket_path) {
  const long rank = environment_number("RANK");
  const long local_rank = environment_number("LOCAL_RANK");
  moecheck::parallel_impls::LineSocket socket(socket_path);
  const Recording recording = is_set(kNoTraceVariable) ? Recording::kOff : Recording::kOn;
  Session session(rank, local_rank, recording,
                  {[&](const moecheck::subject::CollectiveEvent& event) { socket.write(to_json(event)); },
                   [&](moecheck::cases::CrashPoint point) {
                     socket.write({{"event", "at"}, {"point", moecheck::cases::crash_point_name(point)}});
                     while (true) ::pause();   // the driver kills it here
                   }});
  socket.write({{"event", "hello"}, {"protocol", moecheck::subject::kProtocol}, {"rank", rank}, {"pid", ::getpid()}});
  while (auto line = socket.read_line()) {
    auto request = moecheck::base::parse_json(*line, "request");
    if (!request) return 4;
    Json reply = to_json(answer(session, *request));
    reply["id"] = request->value("id", 0);
    socket.write(reply);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1 && std::string(argv[1]) == "--moecheck-describe") {
    auto capabilities = moecheck::parallel_impls::describe();
    if (is_set(kNoPoisonVariable)) capabilities.version += " without poison";
    std::puts(to_json(capabilities).dump(1).c_str());
    return 0;
  }
  const char* socket_path = std::getenv(moecheck::subject::kSocketVariable);
  if (socket_path == nullptr) {
    std::fprintf(stderr, "moecheck-rank: %s is not set; this program is started by moecheck, or ask it for --moecheck-describe\n",
                 moecheck::subject::kSocketVariable);
    return 4;
  }
  keep_freed_memory();
  at::set_num_threads(1);
  if (!is_set(kNoPoisonVariable)) poison_fresh_memory();
  const int status = serve(socket_path);
  // Gloo's threads may still be in a collective that lost its peers: no destructors, no waiting.
  std::fflush(nullptr);
  ::_exit(status);
}
