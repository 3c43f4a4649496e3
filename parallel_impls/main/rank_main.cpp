// moecheck-rank: one rank of the in-tree implementations, or of a native plug-in's, over the same protocol as every other subject.
//
//   moecheck-rank [--plugin PATH.so] [--moecheck-describe]
//
// Two environment variables are for ci/bench only, which measures what recording and poisoning cost:
//   MOECHECK_BENCH_NO_TRACE=1   shows nothing and writes no trace; nothing can be judged, so that no such run can pass
//   MOECHECK_BENCH_NO_POISON=1  leaves fresh memory as it is; runs can pass, and their record names the subject "without poison"
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <malloc.h>
#include <memory>
#include <string>
#include <sys/prctl.h>
#include <unistd.h>

#include <ATen/Context.h>
#include <ATen/Parallel.h>

#include "harness/subject/rank_place.h"
#include "parallel_impls/plugin_host/plugin_library.h"
#include "parallel_impls/rank/line_socket.h"
#include "parallel_impls/rank/session.h"

namespace {

using moecheck::base::Json;
using moecheck::parallel_impls::DriverTalk;
using moecheck::parallel_impls::Implementation;
using moecheck::parallel_impls::LineSocket;
using moecheck::parallel_impls::Recording;
using moecheck::parallel_impls::Session;
using moecheck::parallel_impls::WholeCase;
using moecheck::subject::RankPlace;
using moecheck::subject::Reply;

constexpr const char* kNoTraceVariable = "MOECHECK_BENCH_NO_TRACE";
constexpr const char* kNoPoisonVariable = "MOECHECK_BENCH_NO_POISON";

bool is_set(const char* name) {
  const char* text = std::getenv(name);
  return text != nullptr && std::string(text) == "1";
}

constexpr int kUsageError = 4;

constexpr int kKeptBytes = 512 << 20;

// Large blocks come from the heap, of which that much is not given back: a warm rank reuses its pages where a mapping for each tensor and
// tap would have the kernel clear new ones, which took longer than computing.
void keep_freed_memory() {
  ::mallopt(M_MMAP_MAX, 0);
  ::mallopt(M_TRIM_THRESHOLD, kKeptBytes);
}

// Fresh memory of a plug-in's own, as malloc gives it, is filled with this byte's complement and freed memory with the byte: -6.0 and 0.75
// in fp32 and bf16. malloc knows no byte that makes NaN of both.
constexpr int kNativePoison = 0x3f;

// Every allocation is filled with NaN; what nobody wrote cannot pass for a number.
void poison_fresh_memory() {
  at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/true);
  at::globalContext().setDeterministicFillUninitializedMemory(true);
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

Json hello(const RankPlace& place) {
  Json hello = {{"event", "hello"}, {"protocol", moecheck::subject::kProtocol}, {"rank", place.rank},
                {"world_size", place.world_size}, {"pid", ::getpid()}, {"machine", moecheck::subject::machine_name()}};
  if (const char* token = std::getenv(moecheck::subject::kTokenVariable)) hello["token"] = token;
  return hello;
}

std::unique_ptr<DriverTalk> talk_to_driver(const RankPlace& place) {
  if (const char* file = std::getenv(moecheck::subject::kCaseVariable)) return std::make_unique<WholeCase>(file, place.rank);
  auto socket = std::make_unique<LineSocket>(std::getenv(moecheck::subject::kSocketVariable));
  // Ranks on several machines meet where they reach the driver.
  if (const std::string interface = socket->interface(); !interface.empty()) ::setenv("GLOO_SOCKET_IFNAME", interface.c_str(), 0);
  return socket;
}

int serve(const RankPlace& place, std::vector<Implementation> offered) {
  // Whoever started it, driver or launcher, takes it along.
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  const auto talk = talk_to_driver(place);
  const Recording recording = is_set(kNoTraceVariable) ? Recording::kOff : Recording::kOn;
  Session session(place.rank, place.local_rank, recording,
                  {[&](const moecheck::subject::CollectiveEvent& event) { talk->write(to_json(event)); },
                   [&](moecheck::cases::CrashPoint point) {
                     talk->write({{"event", "at"}, {"point", moecheck::cases::crash_point_name(point)}});
                     while (true) ::pause();   // the driver kills it here
                   }},
                  std::move(offered));
  talk->write(hello(place));
  while (auto line = talk->read_line()) {
    auto request = moecheck::base::parse_json(*line, "request");
    if (!request) return kUsageError;
    Json reply = to_json(answer(session, *request));
    reply["id"] = request->value("id", 0);
    talk->write(reply);
  }
  return 0;
}

// What this process offers.
struct Offer {
  moecheck::subject::Capabilities capabilities;
  std::vector<Implementation> implementations;
};

Offer offer_of(const std::string& plugin) {
  if (plugin.empty()) return {moecheck::parallel_impls::describe(), moecheck::parallel_impls::implementations()};
  const auto library = moecheck::parallel_impls::load_plugin(plugin);
  if (!library) {
    std::fprintf(stderr, "moecheck-rank: %s\n", library.error().text().c_str());
    std::exit(kUsageError);
  }
  return {(*library)->capabilities, moecheck::parallel_impls::implementations_of(*library)};
}

struct Arguments {
  std::string plugin;   // empty: the in-tree implementations
  bool is_asked_to_describe = false;
};

Arguments arguments_of(int argc, char** argv) {
  Arguments arguments;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--moecheck-describe") {
      arguments.is_asked_to_describe = true;
    } else if (argument == "--plugin" && i + 1 < argc && *argv[i + 1] != '\0') {
      arguments.plugin = argv[++i];
    } else {
      std::fprintf(stderr, "moecheck-rank: '%s' is not understood; usage: moecheck-rank [--plugin PATH.so] [--moecheck-describe]\n",
                   argument.c_str());
      std::exit(kUsageError);
    }
  }
  return arguments;
}

}  // namespace

int main(int argc, char** argv) {
  const Arguments arguments = arguments_of(argc, argv);
  Offer offer = offer_of(arguments.plugin);
  if (arguments.is_asked_to_describe) {
    if (is_set(kNoPoisonVariable)) offer.capabilities.version += " without poison";
    std::puts(to_json(offer.capabilities).dump(1).c_str());
    return 0;
  }
  const auto place = moecheck::subject::rank_place(moecheck::subject::process_environment());
  const bool has_driver = std::getenv(moecheck::subject::kSocketVariable) != nullptr || std::getenv(moecheck::subject::kCaseVariable) != nullptr;
  if (!has_driver || !place) {
    std::fprintf(stderr, "moecheck-rank: %s; this program is started by moecheck, or ask it for --moecheck-describe\n",
                 has_driver ? place.error().text().c_str() : "MOECHECK_SOCKET is not set");
    return kUsageError;
  }
  keep_freed_memory();
  at::set_num_threads(1);
  if (!is_set(kNoPoisonVariable)) poison_fresh_memory();
  if (!is_set(kNoPoisonVariable) && !arguments.plugin.empty()) ::mallopt(M_PERTURB, kNativePoison);
  const int status = serve(*place, std::move(offer.implementations));
  // Gloo's threads may still be in a collective that lost its peers: no destructors, no waiting.
  std::fflush(nullptr);
  ::_exit(status);
}
