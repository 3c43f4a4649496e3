// Proves:       what a life loads and saves at once is what was saved before it: the same names, dtypes and global bytes, whatever
//               the layouts; saves of the same steps on the same layout are the same files, byte for byte.
// Cannot prove: that the first save is right (checkpoint_census), or that the rank held what it loaded in between.
// Reads:        saves      Applies when: a life loads what another saved
#include <algorithm>

#include <fmt/format.h>

#include "harness/check/life_state.h"
#include "harness/check/readable.h"
#include "harness/checkpoint/diff.h"

namespace moecheck::check {
namespace {

constexpr std::string_view kName = "checkpoint_round_trip";
constexpr std::string_view kSave = "save";
constexpr std::size_t kMaxFindings = 8;   // of one pair of saves

// A sound save of a life.
struct Saved {
  const LifeInput* life = nullptr;
  Dim steps = 0;
  const checkpoint::Checkpoint* save = nullptr;

  std::string layout() const { return fmt::format("{}@{}", life->life.one.impl, life->life.one.problem.mesh.text()); }
  std::string text() const { return fmt::format("{} of {} ({})", save_text(steps), life->life.name, layout()); }
};

void report(const Saved& later, std::string message, std::string hypothesis, CheckOutcome& outcome) {
  record::Finding finding;
  finding.check = kName;
  finding.stage = kSave;
  finding.life = later.life->life.name;
  if (later.steps > 0) finding.step = later.steps;
  finding.message = std::move(message);
  finding.hypothesis = std::move(hypothesis);
  outcome.findings.push_back(std::move(finding));
}

std::string words_of(const checkpoint::TensorDifference& one) {
  if (!one.a || !one.b) return fmt::format("{} is {}", one.name, one.a ? "gone" : "new");
  if (one.kind == checkpoint::DifferenceKind::kValues) return fmt::format("{} differs in {} of {} elements", one.name, one.figures->different, one.figures->elements);
  return fmt::format("{} was {} {}, is {} {}", one.name, base::knob_name(one.a->dtype), base::shape_text(one.a->shape), base::knob_name(one.b->dtype),
                     base::shape_text(one.b->shape));
}

void compare_tensors(const Saved& earlier, const Saved& later, CheckOutcome& outcome) {
  const checkpoint::Diff diff = checkpoint::diff(*earlier.save, *later.save, {.is_bitwise = true});
  outcome.compared += diff.num_elements;
  std::string moved;
  for (const checkpoint::ExpertDifference& experts : diff.experts)
    moved += fmt::format("{}{}: {}", moved.empty() ? "with A the earlier and B the later one, " : "; ", experts.group, checkpoint::match_text(experts.match));
  const std::size_t count = std::min(diff.tensors.size(), kMaxFindings);
  for (std::size_t i = 0; i < count; ++i) {
    report(later, fmt::format("{}, loaded from {} and saved again on {}", words_of(diff.tensors[i]), earlier.text(), later.layout()), moved, outcome);
    outcome.findings.back().tensor = diff.tensors[i].name;
  }
  if (diff.tensors.size() > count) outcome.note += fmt::format("{} more tensors of {} differ; ", diff.tensors.size() - count, later.text());
}

void compare_files(const Saved& earlier, const Saved& later, CheckOutcome& outcome) {
  checkpoint::Checkpoint a = *earlier.save, b = *later.save;
  if (!checkpoint::measure_checksums(a) || !checkpoint::measure_checksums(b)) {
    outcome.note += fmt::format("files of {} cannot be read; ", later.text());
    return;
  }
  const auto is_same = [](const checkpoint::StoredFile& x, const checkpoint::StoredFile& y) {
    return x.name == y.name && x.size == y.size && x.checksum == y.checksum;
  };
  outcome.compared += static_cast<std::int64_t>(a.files.size());
  if (std::ranges::equal(a.files, b.files, is_same)) return;
  const auto differs = std::ranges::mismatch(a.files, b.files, is_same);
  const std::string name = differs.in1 != a.files.end() ? differs.in1->name : differs.in2->name;
  report(later, fmt::format("the same tensors, and {} is not the file of {}", name, earlier.text()), "", outcome);
}

bool is_same_layout(const Saved& a, const Saved& b) {
  return a.life->life.one.impl == b.life->life.one.impl && a.life->life.one.problem.mesh == b.life->life.one.problem.mesh;
}

std::vector<Saved> sound_saves(const CaseInput& input) {
  std::vector<Saved> saves;
  for (const LifeInput& life : input.lives)
    for (const auto& [steps, save] : life.saves)
      if (save.problems.empty()) saves.push_back({&life, steps, &save});
  return saves;
}

// Each with the one before; and with the first of its own layout, whose files it must repeat.
void compare_chain(const std::vector<Saved>& saves, CheckOutcome& outcome) {
  for (std::size_t i = 0; i < saves.size(); ++i) {
    const Saved& later = saves[i];
    const auto is_of_steps = [&](const Saved& other) { return &other < &later && other.steps == later.steps; };
    const std::size_t before = outcome.findings.size();
    if (i > 0 && is_of_steps(saves[i - 1])) compare_tensors(saves[i - 1], later, outcome);
    const auto twin = std::ranges::find_if(saves, [&](const Saved& other) { return is_of_steps(other) && is_same_layout(other, later); });
    if (twin != saves.end() && outcome.findings.size() == before) compare_files(*twin, later, outcome);
  }
}

CheckOutcome run(const CaseInput& input) {
  CheckOutcome outcome;
  const bool is_chain = std::ranges::any_of(input.lives, [](const LifeInput& life) { return life.life.from.has_value(); });
  if (!is_chain) {
    outcome.note = "no life loads what another saved";
    return outcome;
  }
  const std::vector<Saved> saves = sound_saves(input);
  compare_chain(saves, outcome);
  if (outcome.compared == 0 && outcome.findings.empty()) {
    outcome.note = "no two saves of the same steps are sound: checkpoint_census says why";
    return outcome;
  }
  conclude(outcome, "");
  return outcome;
}

MOECHECK_REGISTER_CHECK({.name = kName,
                         .doc = {"what a life loads and saves at once is what was saved before it: the same names, dtypes and global bytes, "
                                 "whatever the layouts; saves of the same steps on the same layout are the same files, byte for byte",
                                 "that the first save is right (checkpoint_census), or that the rank held what it loaded in between", "saves",
                                 "a life loads what another saved"},
                         .run_case = run});

}  // namespace
}  // namespace moecheck::check
