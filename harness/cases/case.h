// A case: one single-valued problem with an implementation to run it, immutable after expansion.
// Its id is name, filter and repro at once: "impl=ep_allreduce model=qwen3_moe mesh=ep=2 dtype=bf16 seed=7".
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "harness/base/result.h"
#include "harness/model/problem.h"

namespace moecheck::cases {

enum class OptimizerKind { kSgd, kAdamW };

// What the phase `step` does. Formulas: reference/optimizer.h.
struct Training {
  model::Dim steps = 1;
  model::Dim microbatches = 1;     // their gradients are summed, not averaged
  OptimizerKind optimizer = OptimizerKind::kSgd;
  double learning_rate = 0;        // of the first step
  double lr_decay = 1;             // each further step's rate is the one before times this
  double momentum = 0;             // of sgd
  double weight_decay = 0;
  double clip_norm = 0;            // 0: no clipping

  // Not knobs: the usual ones.
  static constexpr double kBeta1 = 0.9;
  static constexpr double kBeta2 = 0.999;
  static constexpr double kEps = 1e-8;
};

// How the ranks come by a checkpoint's tensors.
enum class Loader {
  kSliced,           // each rank reads its slices
  kFullThenShard,    // each rank reads whole tensors, then keeps its shards
  kRank0Broadcast,   // rank 0 reads, tensor by tensor, and broadcasts what is not unique to a rank
};

// How experts lie in a Hugging Face style checkpoint.
enum class WeightLayout { kPerExpert, kPacked };

enum class SaveFormat {
  kNone,
  kSharded,       // a training checkpoint, one file a rank (harness/checkpoint/format.h)
  kHuggingFace,   // the weights only, consolidated
};

// Where a rank is killed in a save, in order.
enum class CrashPoint { kNone, kStaged, kTorn, kFiles, kIndex, kCommitted };
std::string_view crash_point_name(CrashPoint point);   // "none", "staged", ...
std::optional<CrashPoint> find_crash_point(std::string_view name);

// The layout of a later life: an implementation on a mesh.
struct Layout {
  std::string impl;       // empty: that of the case
  model::Mesh mesh;
  bool is_back = false;   // the case's own implementation and mesh again
  bool operator==(const Layout&) const = default;
};

// What is loaded, saved and loaded again; harness/cases/lives.h makes lives of it.
struct Checkpointing {
  Loader loader = Loader::kSliced;
  WeightLayout weights = WeightLayout::kPerExpert;   // of the checkpoint that a case begins with
  model::Dim weight_files = 1;
  SaveFormat save = SaveFormat::kNone;
  model::Dim save_after = 0;                         // steps before the save
  std::vector<Layout> restarts;                      // one life each
  model::Dim controls = 0;                           // runs without a save, to compare with
  CrashPoint crash = CrashPoint::kNone;
  std::optional<model::Dim> crash_rank;              // none: all of them
};

struct Case {
  model::Problem problem;
  Training training;
  Checkpointing checkpointing;
  bool is_recomputed = false;
  std::string impl;
  std::string experts_backend;
  std::string device;                // "cpu", "cuda"
  std::vector<std::string> phases;   // "load", "forward", "backward", "step"; saves and restarts are in checkpointing
  std::vector<std::string> checks;   // {"all"}, or names
  std::string fault;                 // name of an injected bug; empty for none

  // Not part of the id.
  std::string scenario;              // path of the scenario without suffix, or "command line"
  std::vector<std::string> tags;
  std::string xfail_reason;          // not empty: expected to fail
  model::Dim first_batch = 0;        // of a life that goes on where another was saved

  model::Dim world_size() const { return problem.mesh.world_size(); }
  bool has_phase(std::string_view phase) const;
  // Forwards (and backwards) of the case, those before first_batch counted in: batch b is microbatch b % microbatches of step b / microbatches.
  model::Dim num_batches() const { return has_phase("step") ? training.steps * training.microbatches : first_batch + 1; }
  model::Dim step_of(model::Dim batch) const { return batch / training.microbatches; }   // from 0
  double learning_rate_of(model::Dim step) const;
  bool is_first(model::Dim batch) const { return batch == first_batch; }
  bool ends_step(model::Dim batch) const { return has_phase("step") && (batch + 1) % training.microbatches == 0; }
};

// Knob name -> canonical text; what a scenario, --set and a case id are made of. Names are those of fields().
using KnobValues = std::map<std::string, std::string, std::less<>>;

using FamilyLoader = std::function<base::Result<model::ModelSpec>(std::string_view family)>;

// Fills in defaults and the family's sizes and checks that the whole makes sense.
// Errors: kUsage with the remedy ("mesh ep=3 does not divide experts=8; use 1, 2, 4 or 8").
//         Error::where is the name of the knob to blame, so that a reader of YAML can point at it.
base::Result<Case> make_case(const KnobValues& knobs, const FamilyLoader& load_family);

// Every knob with its value, in table order; what a record shows and a subject is sent.
std::vector<std::pair<std::string, std::string>> config_of(const Case& one);

// impl, model, mesh and dtype always, then each knob that differs from its default (or from the family's value).
std::string case_id(const Case& one, const FamilyLoader& load_family);

// Reads back an id: `knob=value` separated by blanks. Errors: kUsage with did-you-mean.
base::Result<KnobValues> parse_case_id(std::string_view id);

}  // namespace moecheck::cases
