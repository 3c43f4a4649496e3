// A trace: what every rank showed, batch by batch. Observed traces come from files that ranks wrote; expected ones from
// the reference. Immutable once its writer closed it.
//
// Layout on disk: TRACE/<folder of phase and batch>/rank<r>.safetensors; the metadata key "moecheck" holds JSON:
//   {"rank", "coordinate": {dim: c}, "taps": {name: {"cuts": [[mesh_dim, placement], ...], "global_shape"}}, "aborted": bool,
//    "implementation", "experts_backend", "plan": [[pattern, style], ...], "comm": [...], "declared_comm": [...]}
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "harness/base/host_tensor.h"
#include "harness/base/json.h"
#include "harness/base/result.h"
#include "harness/model/placement.h"
#include "harness/trace/comm_log.h"
#include "harness/trace/safetensors.h"

namespace moecheck::trace {

// A rank's local tensor, and how the rank says that it lies in the global one.
struct Tapped {
  base::HostTensor tensor;
  std::vector<model::Cut> cuts;   // empty: replicated
  base::Shape global_shape;
};

// An entry of the subject's parallel plan, in the subject's words, and the parameters (taps) that it was applied to.
struct PlanEntry {
  std::string pattern;
  std::string style;
  std::vector<model::Cut> cuts;          // what the style says; empty for a style that shards nothing
  std::vector<std::string> parameters;   // taps
  bool operator==(const PlanEntry&) const = default;
};

struct RankTrace {
  model::Dim rank = 0;
  std::map<std::string, Tapped, std::less<>> taps;
  bool aborted = false;          // the phase raised; the taps up to there are kept
  std::string implementation;    // what really ran, by the subject's word
  std::string experts_backend;
  std::vector<PlanEntry> plan;                     // of the phase load
  std::vector<Collective> comm;                    // what was sent, in order
  std::vector<DeclaredCollective> declared_comm;   // what the implementation says that it sends in these phases

  const Tapped* find(std::string_view name) const;
  // The tensor, or nullptr.
  const base::HostTensor* tensor(std::string_view name) const;
};

// What all ranks showed of one batch: the parameters that it began with (as loaded, or as the step before left them), its
// forward and backward, and the step if it ends one.
struct Trace {
  std::vector<RankTrace> ranks;  // by rank, phases merged
};

// "forward", and from the second batch on "forward.1"; "load" and the first step alike without a number. A save is named by the number
// of batches before it: "save", "save.2".
std::string phase_folder(std::string_view phase, model::Dim batch);

// One phase alone. Errors: kDamaged with the file.
base::Result<Trace> read_phase(const std::filesystem::path& trace_dir, std::string_view phase_folder, model::Dim num_ranks);

// Writes one phase of one rank; called by subjects.
base::Status write_rank_phase(const std::filesystem::path& trace_dir, std::string_view phase_folder, const RankTrace& rank,
                              const std::map<std::string, model::Dim>& coordinate);

// TRACE for the first life of a case, TRACE/life<i> for those that follow.
std::filesystem::path life_folder(const std::filesystem::path& trace_dir, std::size_t life);
// Below it: the folder in which each save of that life has its own.
std::filesystem::path saves_folder(const std::filesystem::path& life_folder);

struct TraceExtent {
  std::vector<std::string> phases;
  model::Dim num_ranks = 1;
  model::Dim num_batches = 1;
  model::Dim first_batch = 0;   // of a life that was resumed
};

// Reads what is there; an absent file leaves that rank without those taps. One Trace a batch: param/* of a batch that follows a
// step is that step's optim/param/*; if the step shows none, what the batch itself shows, and nothing otherwise. Of the batches before
// first_batch the last shows what the load brought, as a step would have left it, and the others show nothing.
// Errors: kDamaged with the file.
base::Result<std::vector<Trace>> read_trace(const std::filesystem::path& trace_dir, const TraceExtent& extent);

}  // namespace moecheck::trace
