// A trace: what every rank showed, phase by phase. Observed traces come from files that ranks wrote; expected ones from
// the reference. Immutable once its writer closed it.
//
// Layout on disk: TRACE/<phase>/rank<r>.safetensors; the metadata key "moecheck" holds JSON:
//   {"rank", "coordinate": {dim: c}, "taps": {name: {"placement", "mesh_dim", "global_shape"}}, "aborted": bool,
//    "implementation", "experts_backend"}
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
#include "harness/trace/safetensors.h"

namespace moecheck::trace {

// A rank's local tensor, and how the rank says that it lies in the global one.
struct Tapped {
  base::HostTensor tensor;
  model::Placement placement;
  std::string mesh_dim;         // the mesh dimension that the placement refers to; empty for Replicate
  base::Shape global_shape;
};

struct RankTrace {
  model::Dim rank = 0;
  std::map<std::string, Tapped, std::less<>> taps;
  bool aborted = false;          // the phase raised; the taps up to there are kept
  std::string implementation;    // what really ran, by the subject's word
  std::string experts_backend;

  const Tapped* find(std::string_view name) const;
  // The tensor, or nullptr.
  const base::HostTensor* tensor(std::string_view name) const;
};

struct Trace {
  std::vector<RankTrace> ranks;  // by rank, phases merged
};

// Writes one phase of one rank; called by subjects.
base::Status write_rank_phase(const std::filesystem::path& trace_dir, std::string_view phase, const RankTrace& rank,
                              const std::map<std::string, model::Dim>& coordinate);

// Reads the phases of ranks 0..num_ranks-1 that are there; an absent file leaves that rank without those taps.
// Errors: kDamaged with the file.
base::Result<Trace> read_trace(const std::filesystem::path& trace_dir, const std::vector<std::string>& phases,
                               model::Dim num_ranks);

}  // namespace moecheck::trace
