#include "harness/cases/lives.h"

#include <fmt/format.h>

namespace moecheck::cases {
namespace {

// Without what concerns other lives.
Case told(const Case& one) {
  Case asked = one;
  asked.checkpointing = {};
  asked.checkpointing.loader = one.checkpointing.loader;
  asked.checkpointing.weights = one.checkpointing.weights;
  asked.checkpointing.weight_files = one.checkpointing.weight_files;
  asked.checkpointing.save = one.checkpointing.save;
  return asked;
}

Life life_without_save(const Case& one, LifeKind kind, std::string name) {
  return {kind, std::move(name), one, told(one), true, std::nullopt, {}};
}

Life main_life(const Case& one) {
  Life life = life_without_save(one, LifeKind::kMain, "main");
  const Checkpointing& c = one.checkpointing;
  if (c.save == SaveFormat::kNone) return life;
  life.saves.push_back({c.save_after, CrashPoint::kNone});
  if (c.crash == CrashPoint::kNone) return life;
  life.saves.push_back({c.save_after + 1, c.crash});
  life.one.training.steps = c.save_after + 1;
  return life;
}

// The last one that is whole on disk.
Dim last_save(const Life& life) {
  const PlannedSave& last = life.saves.back();
  const bool is_lost = last.crash != CrashPoint::kNone && last.crash != CrashPoint::kCommitted;
  return is_lost ? life.saves.front().after : last.after;
}

Life restart(const Case& one, const std::vector<Life>& before, std::size_t number) {
  const Layout& layout = one.checkpointing.restarts[number];
  Case on_layout = one;
  if (!layout.impl.empty()) on_layout.impl = layout.impl;
  if (!layout.is_back) on_layout.problem.mesh = layout.mesh;
  Life life = life_without_save(on_layout, LifeKind::kRestart, fmt::format("restart {} on {}", number + 1, on_layout.problem.mesh.text()));
  const Dim steps = last_save(before.back());
  life.from = before.size() - 1;
  life.saves.push_back({steps, CrashPoint::kNone});
  life.one.first_batch = steps * one.training.microbatches;
  const bool is_last = number + 1 == one.checkpointing.restarts.size();
  // Without steps every life computes its one batch, from the weights that it loaded.
  life.takes_batches = !one.has_phase("step") || (is_last && steps < one.training.steps);
  if (!life.takes_batches) life.one.phases = {"load"};
  return life;
}

bool is_on_first_layout(const Case& one, const Life& life) { return life.one.impl == one.impl && life.one.problem.mesh == one.problem.mesh; }

}  // namespace

std::vector<Life> lives_of(const Case& one) {
  std::vector<Life> lives = {main_life(one)};
  for (std::size_t i = 0; i < one.checkpointing.restarts.size(); ++i) lives.push_back(restart(one, lives, i));
  const Life& last = lives.back();
  const bool is_resumed = last.kind == LifeKind::kRestart && last.one.has_phase("step") && is_on_first_layout(one, last);
  for (Dim i = 1; is_resumed && i <= one.checkpointing.controls; ++i)
    lives.push_back(life_without_save(one, LifeKind::kControl, fmt::format("control {}", i)));
  return lives;
}

Dim steps_before(const std::vector<Life>& lives, const Life& life) { return life.from ? last_save(lives[*life.from]) : 0; }

std::string save_folder(Dim after) { return fmt::format("step-{}", after); }

}  // namespace moecheck::cases
