#include "reference/hidden_step.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "harness/trace/layout.h"
#include "reference/carried_state.h"

namespace moecheck::reference {
namespace {

constexpr std::array<std::string_view, 4> kKinds = {"optim/m/", "optim/v/", "optim/master/", "optim/param/"};
constexpr std::string_view kNorm = "optim/norm_1";
constexpr std::string_view kClip = "optim/clip_1";
constexpr std::string_view kParam = "param/";

struct HiddenTap {
  Dim rank = 0;
  std::string tap;
  std::string_view kind;            // prefix; the tap itself for those of the whole step
  std::size_t parameter = 0;
};

bool is_shown(const cases::Case& one, const trace::Trace& batch, Dim rank, std::string_view tap) {
  return recorded_shard(one, batch, rank, tap).has_value();
}

// Outcomes of the step that the last batch ends.
std::vector<HiddenTap> hidden_state(const cases::Case& one, const trace::Trace& last, const trace::Expected& expected) {
  std::vector<HiddenTap> hidden;
  const auto look_at = [&](HiddenTap at) {
    const bool is_judged = expected.ranks[static_cast<std::size_t>(at.rank)].taps.contains(at.tap);
    if (!is_judged && is_shown(one, last, at.rank, at.tap)) hidden.push_back(std::move(at));
  };
  for (Dim rank = 0; rank < static_cast<Dim>(expected.ranks.size()); ++rank) {
    for (const std::string_view tap : {kNorm, kClip}) look_at({rank, std::string(tap), tap});
    for (const std::string_view kind : kKinds)
      for (std::size_t p = 0; p < kStepParameters.size(); ++p)
        look_at({rank, std::string(kind) + std::string(kStepParameters[p]), kind, p});
  }
  return hidden;
}

// Parameters that the last batch begins with and that the step before did not show.
std::vector<HiddenTap> hidden_parameters(const cases::Case& one, std::span<const trace::Trace> batches) {
  std::vector<HiddenTap> hidden;
  const trace::Trace &before = batches[batches.size() - 2], &last = batches.back();
  for (Dim rank = 0; rank < static_cast<Dim>(last.ranks.size()); ++rank)
    for (std::size_t p = 0; p < kStepParameters.size(); ++p) {
      const std::string tap = std::string(kParam) + std::string(kStepParameters[p]);
      if (is_shown(one, last, rank, tap) && !is_shown(one, before, rank, "optim/" + tap)) hidden.push_back({rank, tap, kParam, p});
    }
  return hidden;
}

bool are_masters_shown(const cases::Case& one, std::span<const trace::Trace> batches) {
  for (const trace::Trace& batch : batches)
    for (Dim rank = 0; rank < static_cast<Dim>(batch.ranks.size()); ++rank)
      for (const std::string_view parameter : kStepParameters)
        if (is_shown(one, batch, rank, "optim/master/" + std::string(parameter))) return true;
  return false;
}

NearFlat single(const tolerance::Near& near) { return {Flat::Constant(1, 1, near.value), Flat::Constant(1, 1, near.bound)}; }

std::optional<NearFlat> known_of(const CarriedState& carried, const HiddenTap& hidden) {
  if (hidden.kind == kNorm) return carried.norm() ? std::optional(single(*carried.norm())) : std::nullopt;
  if (hidden.kind == kClip) return carried.clip(hidden.rank) ? std::optional(single(*carried.clip(hidden.rank))) : std::nullopt;
  const PredictedShard& shard = carried.predicted(hidden.rank, hidden.parameter);
  if (hidden.kind == "optim/m/") return shard.state.m;
  if (hidden.kind == "optim/v/") return shard.state.v;
  if (hidden.kind == "optim/master/") return shard.state.theta;
  return shard.param;
}

trace::WholeTap whole_tap(const NearFlat& known, const base::Shape& shape) {
  trace::WholeTap tap{base::HostTensor(base::DType::kF64, shape), base::HostTensor(base::DType::kF64, shape)};
  for (Dim i = 0; i < known.value.size(); ++i) {
    const bool is_known = std::isfinite(known.bound(0, i));
    tap.value.set(i, is_known ? known.value(0, i) : std::numeric_limits<double>::quiet_NaN());
    tap.bound.set(i, known.bound(0, i));
  }
  tap.is_comparable.assign(static_cast<std::size_t>(shape.at(0)), 1);
  return tap;
}

// What is hidden of the last step, and of the one before it.
struct Hidden {
  std::vector<HiddenTap> parameters;
  std::vector<HiddenTap> state;
};

using Taps = std::map<std::string, trace::WholeTap, std::less<>>;

void write(const cases::Case& one, const CarriedState& carried, const std::vector<HiddenTap>& taps, Taps trace::ExpectedRank::* into,
           trace::Expected& expected) {
  for (const HiddenTap& hidden : taps) {
    const auto known = known_of(carried, hidden);
    if (!known) continue;
    trace::ExpectedRank& rank = expected.ranks[static_cast<std::size_t>(hidden.rank)];
    (rank.*into).emplace(hidden.tap, whole_tap(*known, *trace::declared_shape(one.problem, hidden.tap, hidden.rank, {})));
  }
}

void write_all(const cases::Case& one, std::span<const trace::Trace> batches, Stepped stepped, const Hidden& hidden,
               trace::Expected& expected) {
  const Dim last = static_cast<Dim>(batches.size()) - 1;
  // Stepped in fp32, parameters are their own masters.
  const bool is_other = stepped == Stepped::kInDtype && one.problem.dtype != base::DType::kF32;
  const auto into = is_other ? &trace::ExpectedRank::in_dtype : &trace::ExpectedRank::whole;
  CarriedState carried(one, batches, stepped);
  while (carried.num_steps() < one.step_of(last)) carried.step();
  write(one, carried, hidden.parameters, into, expected);
  if (hidden.state.empty()) return;
  carried.step();
  write(one, carried, hidden.state, into, expected);
}

}  // namespace

void expect_hidden_step(const cases::Case& one, std::span<const trace::Trace> batches, trace::Expected& expected) {
  if (batches.empty() || !one.has_phase("step")) return;
  const Dim last = static_cast<Dim>(batches.size()) - 1;
  Hidden hidden;
  if (one.ends_step(last)) hidden.state = hidden_state(one, batches.back(), expected);
  if (last > one.first_batch && one.ends_step(last - 1)) hidden.parameters = hidden_parameters(one, batches);
  if (hidden.state.empty() && hidden.parameters.empty()) return;
  const bool is_fp32 = one.problem.dtype == base::DType::kF32;
  write_all(one, batches, is_fp32 ? Stepped::kInDtype : Stepped::kMasters, hidden, expected);
  if (!is_fp32 && !are_masters_shown(one, batches)) write_all(one, batches, Stepped::kInDtype, hidden, expected);
}

}  // namespace moecheck::reference
