// The ranks of one subject at one world size: started once, given request after request.
#pragma once

#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "harness/launch/collective_ledger.h"
#include "harness/launch/rank_start.h"
#include "harness/subject/protocol.h"

namespace moecheck::launch {

// What became of one rank in one request.
struct RankOutcome {
  std::optional<subject::Reply> reply;
  std::optional<ChildExit> exit;                      // it ended
  bool is_launchers_exit = false;                     // `exit` is of the launcher that started all ranks; which failed is not known
  std::optional<subject::CollectiveEvent> waits_in;   // the collective it had entered and not left
  std::string protocol_error;                         // garbage on the socket
  bool has_left = false;                              // it closed its socket and lives on
  std::string held_at;                                // where in a save it waits to be killed
};

enum class CallEnd {
  kAnswered,
  kFailed,
  kDiverged,      // ranks entered collectives that do not fit each other: see `mismatch`
  kTimedOut,
  kInterrupted,
  kKilled,        // ranks were killed where they were held
};

// Ranks that are killed as soon as each of them is held somewhere or waits in a collective.
struct Killing {
  std::vector<model::Dim> ranks;
};

struct CallResult {
  CallEnd end = CallEnd::kAnswered;
  std::vector<RankOutcome> ranks;
  std::size_t first_failed = 0;   // if kFailed: the others' failures may follow from this one's
  std::optional<CollectiveMismatch> mismatch = {};
};

class RankPool {
 public:
  // Errors: as start_ranks.
  static base::Result<std::unique_ptr<RankPool>> start(const StartOptions& options);
  virtual ~RankPool() = default;

  // Collectives that ranks enter from now on are over groups of this mesh; those of an earlier case are forgotten.
  virtual void begin_case(const model::Mesh& mesh) = 0;
  // Sends request `r` to rank r and waits for all replies. After the first failure the others get a short grace, since they
  // may wait for the failed one forever; so do all after collectives that do not fit. Returns early with kInterrupted at the
  // second interrupt.
  // With a killing the survivors have the grace to do what they do about it.
  virtual CallResult call(const std::vector<base::Json>& requests, std::chrono::milliseconds limit, const std::optional<Killing>& killing = {}) = 0;
  virtual std::filesystem::path rendezvous() const = 0;
  static std::filesystem::path rendezvous_in(const std::filesystem::path& folder) { return folder / "rendezvous"; }
  virtual std::string last_output(model::Dim rank) const = 0;   // end of its stdout and stderr, one line
};

}  // namespace moecheck::launch
