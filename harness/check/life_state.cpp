#include "harness/check/life_state.h"

#include <algorithm>
#include <cstring>
#include <set>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "harness/check/compare.h"
#include "harness/checkpoint/expert_names.h"
#include "harness/trace/layout.h"
#include "harness/trace/tap_points.h"

namespace moecheck::check {
namespace {

constexpr std::string_view kParam = "param/";
constexpr std::string_view kStepped = "optim/param/";
constexpr std::string_view kAttention = "param/attention/w_DD";
constexpr std::string_view kGateUp = "param/experts/gate_up_EGD";
constexpr std::string_view kDown = "param/experts/down_EDF";
constexpr std::string_view kSteps = "optim/steps_3";

bool is_state(std::string_view name) {
  for (const std::string_view prefix : {"optim/master/", "optim/m/", "optim/v/", "state/"})
    if (name.starts_with(prefix)) return true;
  return name == kSteps;
}

bool is_param(std::string_view tap) { return trace::find_tap(tap)->kind == trace::TapKind::kParam; }

base::Shape global_shape(const model::Problem& problem, std::string_view tap) {
  if (is_param(tap)) return trace::global_param_shape(problem.model, tap);
  return trace::declared_shape(problem, tap, 0, {}).value();
}

DeclaredTensor declared(const cases::Case& one, std::string_view tap) {
  return {std::string(tap), tap, store_of(one, tap), global_shape(one.problem, tap)};
}

void add_experts(const cases::Case& one, std::vector<DeclaredTensor>& tensors) {
  const model::ModelSpec& m = one.problem.model;
  const base::DType dtype = one.problem.dtype;
  if (one.checkpointing.weights == cases::WeightLayout::kPacked) {
    tensors.push_back({model::packed_tensor_name(m.names.gate, "gate_up_proj"), kGateUp, dtype, global_shape(one.problem, kGateUp)});
    tensors.push_back({model::packed_tensor_name(m.names.down, "down_proj"), kDown, dtype, global_shape(one.problem, kDown)});
    return;
  }
  for (Dim e = 0; e < m.num_experts; ++e) {
    tensors.push_back({model::expert_tensor_name(m.names.gate, e), kGateUp, dtype, {m.d_ff, m.d_model}, e});
    tensors.push_back({model::expert_tensor_name(m.names.up, e), kGateUp, dtype, {m.d_ff, m.d_model}, e});
    tensors.push_back({model::expert_tensor_name(m.names.down, e), kDown, dtype, {m.d_model, m.d_ff}, e});
  }
}

std::vector<DeclaredTensor> declared_weights(const cases::Case& one) {
  const model::ModelSpec& m = one.problem.model;
  std::vector<DeclaredTensor> tensors;
  tensors.push_back({m.names.attention, kAttention, one.problem.dtype, {m.d_model, m.d_model}});
  tensors.push_back({m.names.router, "param/router/w_ED", one.problem.dtype, {m.num_experts, m.d_model}});
  add_experts(one, tensors);
  return tensors;
}

// Whether a training checkpoint has it after so many steps.
bool is_saved(const cases::Case& one, std::string_view tap, Dim steps) {
  if (tap.starts_with(kParam)) return true;
  if (!one.has_phase("step") || !is_state(tap)) return false;
  const bool is_adamw = one.training.optimizer == cases::OptimizerKind::kAdamW;
  if (tap.starts_with("optim/v/") || tap == kSteps) return is_adamw && steps > 0;
  if (tap.starts_with("optim/m/")) return (is_adamw || one.training.momentum != 0) && steps > 0;
  return true;
}

// Calls visit(first element in the global tensor, first element in the part, elements) for every run along the last dim.
template <typename Visit>
void for_each_run(const model::Problem& problem, std::string_view tap, Dim rank, const base::Shape& global, Visit visit) {
  std::vector<std::vector<Dim>> held;
  for (std::size_t d = 0; d < global.size(); ++d) held.push_back(trace::declared_indices(problem, tap, rank, static_cast<Dim>(d)));
  if (held.size() == 2) held.insert(held.begin(), {0});
  const Dim num_rows = global[global.size() - 2], num_columns = global.back();
  const auto count = static_cast<Dim>(held[2].size());
  Dim in_part = 0;
  for (const Dim outer : held[0])
    for (const Dim row : held[1]) {
      if (count > 0) visit((outer * num_rows + row) * num_columns + held[2].front(), in_part, count);
      in_part += count;
    }
}

std::string names_text(const std::vector<std::string>& names) {
  constexpr std::size_t kNamed = 4;
  const std::vector<std::string> first(names.begin(), names.begin() + static_cast<std::ptrdiff_t>(std::min(names.size(), kNamed)));
  return fmt::format("{}{}", fmt::join(first, ", "), names.size() > kNamed ? fmt::format(" and {} more", names.size() - kNamed) : "");
}

std::string misfit_of(const checkpoint::Checkpoint& save, const DeclaredTensor& want) {
  const checkpoint::ShardedTensor& got = save.tensors.at(want.name);
  if (got.dtype == want.dtype && got.shape == want.shape) return "";
  return fmt::format("{} is {} {}, declared {} {}", want.name, base::knob_name(got.dtype), base::shape_text(got.shape), base::knob_name(want.dtype),
                     base::shape_text(want.shape));
}

// Experts with tensors of their own, of which none is there.
std::set<Dim> lost_experts(const checkpoint::Checkpoint& save, const std::vector<DeclaredTensor>& declared) {
  std::set<Dim> lost;
  for (const DeclaredTensor& want : declared)
    if (want.expert) lost.insert(*want.expert);
  for (const DeclaredTensor& want : declared)
    if (want.expert && save.tensors.contains(want.name)) lost.erase(*want.expert);
  return lost;
}

bool is_usable(const checkpoint::Checkpoint& save, const DeclaredTensor& want) {
  return save.tensors.contains(want.name) && misfit_of(save, want).empty();
}

}  // namespace

std::vector<const base::HostTensor*> HeldState::parts(std::string_view name) const {
  std::vector<const base::HostTensor*> parts;
  for (const auto& rank : ranks) {
    const auto found = rank.find(name);
    parts.push_back(found == rank.end() ? nullptr : &found->second);
  }
  return parts;
}

bool HeldState::is_shown(std::string_view name) const {
  return std::ranges::any_of(ranks, [&](const auto& rank) { return rank.contains(name); });
}

HeldState loaded_state(const LifeInput& life) {
  HeldState state;
  for (const trace::RankTrace& rank : life.loaded.ranks) {
    auto& held = state.ranks.emplace_back();
    for (const auto& [name, tapped] : rank.taps)
      if (trace::find_tap(name) != nullptr && (name.starts_with(kParam) || is_state(name))) held.emplace(name, tapped.tensor);
  }
  return state;
}

HeldState state_after(const LifeInput& life, Dim steps) {
  const cases::Case& one = life.life.one;
  const Dim num_batches = steps * one.training.microbatches;
  if (steps == 0 || num_batches == one.first_batch) return loaded_state(life);
  HeldState state{std::vector<std::map<std::string, base::HostTensor, std::less<>>>(static_cast<std::size_t>(one.world_size()))};
  if (num_batches > static_cast<Dim>(life.batches.size())) return state;
  for (const trace::RankTrace& rank : life.batches[static_cast<std::size_t>(num_batches - 1)].ranks) {
    auto& held = state.ranks.at(static_cast<std::size_t>(rank.rank));
    for (const auto& [name, tapped] : rank.taps) {
      if (trace::find_tap(name) == nullptr) continue;
      if (name.starts_with(kStepped)) held.emplace(std::string(kParam) + name.substr(kStepped.size()), tapped.tensor);
      if (is_state(name)) held.emplace(name, tapped.tensor);
    }
  }
  // No step touches it.
  for (const trace::RankTrace& rank : life.loaded.ranks)
    if (const auto* attention = rank.tensor(kAttention)) state.ranks.at(static_cast<std::size_t>(rank.rank)).emplace(kAttention, *attention);
  return state;
}

std::vector<DeclaredTensor> declared_tensors(const cases::Case& one, Dim steps) {
  if (one.checkpointing.save == cases::SaveFormat::kHuggingFace) return declared_weights(one);
  std::vector<DeclaredTensor> tensors;
  for (const trace::TapPoint& tap : trace::tap_points())
    if (is_saved(one, tap.name, steps)) tensors.push_back(declared(one, tap.name));
  return tensors;
}

SavedTensors::SavedTensors(const checkpoint::Checkpoint& save, const cases::Case& one, Dim steps)
    : save_(save), model_(one.problem.model), declared_(declared_tensors(one, steps)) {
  std::set<std::string_view> spoiled;
  for (const DeclaredTensor& want : declared_)
    if (!is_usable(save, want)) spoiled.insert(want.tap);
  for (const trace::TapPoint& tap : trace::tap_points())
    if (!spoiled.contains(tap.name) && std::ranges::find(declared_, tap.name, &DeclaredTensor::tap) != declared_.end()) taps_.push_back(tap.name);
}

base::HostTensor SavedTensors::global(std::string_view tap) const {
  std::vector<base::HostTensor> parts;
  for (const DeclaredTensor& want : declared_)
    if (want.tap == tap) parts.push_back(checkpoint::tensor_of(save_, want.name));
  MOECHECK_REQUIRE(!parts.empty(), std::string(tap));
  if (parts.size() == 1) return parts.front();
  // Gate and up of one expert after the other: that is how the packed tensor lies.
  base::HostTensor whole(parts.front().dtype(), trace::global_param_shape(model_, tap));
  std::byte* to = whole.mutable_bytes().data();
  for (const base::HostTensor& part : parts) {
    std::memcpy(to, part.bytes().data(), part.num_bytes());
    to += part.num_bytes();
  }
  return whole;
}

std::vector<SaveDifference> SavedTensors::differences() const {
  const std::set<Dim> lost = lost_experts(save_, declared_);
  std::set<std::string> known;
  std::vector<std::string> missing, additional;
  std::vector<SaveDifference> misfits, differences;
  for (const DeclaredTensor& want : declared_) {
    known.insert(want.name);
    const bool is_lost = want.expert && lost.contains(*want.expert);
    if (!save_.tensors.contains(want.name) && !is_lost) missing.push_back(want.name);
    else if (const std::string misfit = is_lost ? "" : misfit_of(save_, want); !misfit.empty()) misfits.push_back({misfit, want.expert});
  }
  for (const auto& [name, tensor] : save_.tensors)
    if (!known.contains(name)) additional.push_back(name);
  const auto are = [](std::size_t count) { return count == 1 ? "is" : "are"; };
  if (!lost.empty())
    differences.push_back({fmt::format("expert{} {} {} not in it", lost.size() == 1 ? "" : "s", checkpoint::ranges_text(lost), are(lost.size())), *lost.begin()});
  if (!missing.empty()) differences.push_back({fmt::format("{} not in it: {}", are(missing.size()), names_text(missing))});
  if (!additional.empty()) differences.push_back({fmt::format("it holds what is not declared: {}", names_text(additional))});
  std::ranges::move(misfits, std::back_inserter(differences));
  return differences;
}

base::HostTensor declared_part(const model::Problem& problem, std::string_view tap, const base::HostTensor& global, Dim rank) {
  if (!is_param(tap)) return global;
  base::HostTensor part(global.dtype(), model::held_shape(trace::declared_cuts(problem, tap), global.shape(), problem.mesh, rank));
  const std::size_t item = base::itemsize(global.dtype());
  std::byte* to = part.num_bytes() == 0 ? nullptr : part.mutable_bytes().data();
  for_each_run(problem, tap, rank, global.shape(), [&](Dim in_global, Dim in_part, Dim count) {
    std::memcpy(to + static_cast<std::size_t>(in_part) * item, global.bytes().data() + static_cast<std::size_t>(in_global) * item,
                static_cast<std::size_t>(count) * item);
  });
  return part;
}

base::HostTensor assembled(const model::Problem& problem, std::string_view tap, const std::vector<const base::HostTensor*>& parts) {
  const auto shown = std::ranges::find_if(parts, [](const base::HostTensor* part) { return part != nullptr; });
  if (shown == parts.end()) return {};
  if (!is_param(tap)) return **shown;
  base::HostTensor global((*shown)->dtype(), trace::global_param_shape(problem.model, tap));
  const std::size_t item = base::itemsize(global.dtype());
  std::byte* to = global.mutable_bytes().data();
  for (std::size_t r = parts.size(); r-- > 0;) {
    const auto rank = static_cast<Dim>(r);
    const base::HostTensor* part = parts[r];
    const auto shape = model::held_shape(trace::declared_cuts(problem, tap), global.shape(), problem.mesh, rank);
    if (part == nullptr || part->shape() != shape || part->dtype() != global.dtype()) continue;
    for_each_run(problem, tap, rank, global.shape(), [&](Dim in_global, Dim in_part, Dim count) {
      std::memcpy(to + static_cast<std::size_t>(in_global) * item, part->bytes().data() + static_cast<std::size_t>(in_part) * item,
                  static_cast<std::size_t>(count) * item);
    });
  }
  return global;
}

std::string save_text(Dim steps) { return fmt::format("the save after {} step{}", steps, steps == 1 ? "" : "s"); }

}  // namespace moecheck::check
