// The state of an optimizer whose steps are not shown part by part: the reference carries it itself, from the parameters before the
// first step and the recorded gradients of every microbatch on, in double, each number with a bound (harness/tolerance/step.h).
// What is recorded on the way is gone on from: state, gradients' sum, norm, clip factor and, after each step, the parameters.
#pragma once

#include <array>
#include <optional>
#include <span>
#include <vector>

#include "harness/tolerance/step.h"
#include "reference/optimizer.h"
#include "reference/recorded_shard.h"

namespace moecheck::reference {

// Numbers that are known to lie within `bound` of `value`.
struct NearFlat {
  Flat value;
  Flat bound;
};

// What takes the steps.
enum class Stepped {
  kMasters,   // fp32 masters, which the parameters are rounded copies of
  kInDtype,   // the parameters themselves, with all state in the case's dtype
};

// A shard of a parameter on one rank. Nothing where it cannot be known.
struct ShardState {
  std::optional<NearFlat> theta;   // what takes the steps
  std::optional<NearFlat> m;
  std::optional<NearFlat> v;
};

// After a step, before anything that was recorded of its outcome is taken over; recorded moments are taken for the parameter.
struct PredictedShard {
  ShardState state;
  std::optional<NearFlat> param;
};

class CarriedState {
 public:
  // As it is before the first step of the life. Requires: one and batches outlive this, and have a batch.
  CarriedState(const cases::Case& one, std::span<const trace::Trace> batches, Stepped stepped);

  // Takes the next step. Requires: its last batch is among the batches.
  void step();
  // Steps taken, those before the life counted in.
  Dim num_steps() const { return num_steps_; }

  // Of the step taken last. Requires: one was taken.
  const PredictedShard& predicted(Dim rank, std::size_t parameter) const { return predicted_.at(at(rank)).at(parameter); }
  // Its global norm, from the shards of all ranks, each once; nothing if a gradient is not shown.
  const std::optional<tolerance::Near>& norm() const { return norm_; }
  // The factor that the rank's gradients are multiplied with, from that norm or the recorded one.
  const std::optional<tolerance::Near>& clip(Dim rank) const { return clips_.at(at(rank)); }

 private:
  using Shards = std::array<std::optional<NearFlat>, kStepParameters.size()>;

  static std::size_t at(Dim rank) { return static_cast<std::size_t>(rank); }
  const trace::Trace& batch(Dim index) const { return batches_[static_cast<std::size_t>(index)]; }
  Dim last_batch() const { return (num_steps_ + 1) * one_.training.microbatches - 1; }   // of the step in hand
  bool is_adamw() const { return one_.training.optimizer == cases::OptimizerKind::kAdamW; }
  std::optional<Flat> recorded(Dim rank, std::string_view prefix, std::size_t parameter) const;

  ShardState first_state(Dim rank, std::size_t parameter) const;
  std::optional<NearFlat> gradient_sum(Dim rank, std::size_t parameter) const;
  std::optional<tolerance::Near> global_norm(const std::vector<Shards>& gradients) const;
  tolerance::Near clip_factor(const tolerance::Near& norm) const;
  std::optional<tolerance::Near> predicted_clip(Dim rank) const;
  NearFlat clipped(const NearFlat& gradient, const tolerance::Near& clip) const;

  void predict(Dim rank, std::size_t parameter, const std::optional<NearFlat>& gradient);
  void predict_moments(const ShardState& before, const NearFlat& gradient, ShardState& after) const;
  NearFlat weight(const NearFlat& theta, const ShardState& moments) const;
  NearFlat adamw_weight(const NearFlat& theta, const NearFlat& m, const NearFlat& v) const;
  NearFlat copy_of(const NearFlat& theta) const;
  void take_over(Dim rank, std::size_t parameter);

  const cases::Case& one_;
  std::span<const trace::Trace> batches_;
  Stepped stepped_;
  tolerance::StepBounds bounds_;
  Dim num_steps_ = 0;
  std::vector<std::array<ShardState, kStepParameters.size()>> states_;          // by rank
  std::vector<std::array<PredictedShard, kStepParameters.size()>> predicted_;   // likewise
  std::optional<tolerance::Near> norm_;
  std::vector<std::optional<tolerance::Near>> clips_;   // by rank
};

}  // namespace moecheck::reference
