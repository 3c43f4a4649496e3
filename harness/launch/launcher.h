// Runs one case, life by life, on ranks of a subject and says how that went. Tensors and saves lie in the trace folder afterwards.
#pragma once

#include <chrono>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "harness/launch/rank_pool.h"

namespace moecheck::launch {

enum class RunEnd {
  kCompleted,     // every rank finished every phase
  kRaised,        // a rank raised in a phase: see `raised`; the trace goes up to there
  kDiverged,      // ranks entered collectives that do not fit each other: see `mismatch`; likewise
  kUnsupported,   // refused, with a reason
  kCrashed,       // a rank was killed by a signal, ended or closed its socket
  kTimedOut,
  kBroken,        // infrastructure: could not start, disk full, protocol not followed
  kInterrupted,
};

struct RaisedPhase {
  model::Dim rank = 0;
  std::string phase;
  std::string message;
  std::string traceback;
  model::Dim batch = 0;
  std::size_t life = 0;
};

struct CaseRun {
  RunEnd end = RunEnd::kBroken;
  std::string reason;                  // one line: rank, phase, signal, collective
  std::vector<RaisedPhase> raised;     // also where ranks diverged, if that made them raise
  double seconds = 0;                  // spent waiting for the ranks
  std::optional<CollectiveMismatch> mismatch = {};
  std::size_t life = 0;                // the last one that began; see cases::lives_of
};

struct CaseFolders {
  std::filesystem::path checkpoint;
  std::filesystem::path trace;
};

// An interface, so that the pipeline can be tested without processes.
class Launcher {
 public:
  virtual ~Launcher() = default;
  virtual base::Result<subject::Capabilities> describe() = 0;
  virtual CaseRun run(const cases::Case& one, const CaseFolders& folders, std::chrono::milliseconds limit) = 0;
};

struct LauncherOptions {
  std::vector<std::string> command;     // the subject
  std::filesystem::path scratch;
  bool is_fresh_per_case = false;       // --fresh-ranks
  std::chrono::milliseconds start_limit{60'000};   // for --moecheck-describe, and for the ranks to say hello
  std::vector<std::string> prefix = {};   // --launch: a launcher's words before the command
  std::string listen = {};                // --listen: for ranks on other machines
  bool forks_ranks = false;               // the subject has a server that does; not under a launcher
  bool is_at_once = false;                // the subject takes a case whole
  SentObserver on_sent = {};

  // How the ranks are run that its --moecheck-describe promised.
  void take(const subject::Capabilities& capabilities);
};

// Persistent pools, one a world size. A pool in which a rank failed, hung, or ran a fault is replaced.
std::unique_ptr<Launcher> make_process_launcher(LauncherOptions options);

}  // namespace moecheck::launch
