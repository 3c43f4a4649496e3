// Proves:       every save is sound on disk and holds what the ranks held when they saved, each global index once, under the
//               declared names; every later life holds after its load, on every rank and in every replica, the bytes of the
//               save, the optimizer's moments included; if not, says whose they are.
// Cannot prove: that what was saved is right (the checks of each batch); that the next step uses what was loaded.
// Reads:        saves; param/*, optim/*, state/* at a save and after a load      Applies when: a life saves
#include <algorithm>

#include <fmt/format.h>

#include "harness/check/life_state.h"
#include "harness/check/readable.h"
#include "harness/check/state_scan.h"

namespace moecheck::check {
namespace {

constexpr std::string_view kName = "checkpoint_census";
constexpr std::string_view kSave = "save";
constexpr std::string_view kLoad = "load";
constexpr std::size_t kMaxFindings = 8;   // of one save, or of one load

struct Census {
  const CaseInput& input;
  CheckOutcome outcome = {};

  void note(const std::string& text) { outcome.note += (outcome.note.empty() ? "" : "; ") + text; }
};

record::Finding finding_about(const LifeInput& life, std::string_view stage, std::string message) {
  record::Finding finding;
  finding.check = kName;
  finding.stage = stage;
  finding.life = life.life.name;
  finding.message = std::move(message);
  return finding;
}

void add(Census& census, std::vector<record::Finding> findings) {
  if (findings.size() > kMaxFindings) {
    census.note(fmt::format("{} more findings of {}", findings.size() - kMaxFindings, findings.front().life));
    findings.resize(kMaxFindings);
  }
  std::ranges::move(findings, std::back_inserter(census.outcome.findings));
}

std::vector<record::Finding> findings_of(const StateScan& scan, const LifeInput& life, std::string_view moment) {
  std::vector<record::Finding> findings;
  for (const StateDifference& one : scan.differences()) {
    findings.push_back(finding_about(life, one.tap, fmt::format("{}: {}{}", moment, one.message, one.also_text())));
    findings.back().rank = one.rank;
    findings.back().expert = one.expert;
    findings.back().measured = static_cast<double>(one.wrong_rows);
    findings.back().bound = 0;
    findings.back().compared = scan.compared();
  }
  return findings;
}

void look_at_save(Census& census, const LifeInput& life, Dim steps, const checkpoint::Checkpoint& save) {
  std::vector<record::Finding> findings;
  for (const checkpoint::Problem& problem : save.problems)
    findings.push_back(finding_about(life, kSave, fmt::format("{}: {}", save_text(steps), problem.text())));
  if (save.problems.empty()) {
    const SavedTensors saved(save, census.input.one, steps);
    const HeldState held = state_after(life, steps);
    for (const SaveDifference& difference : saved.differences()) {
      findings.push_back(finding_about(life, kSave, fmt::format("{}: {}", save_text(steps), difference.message)));
      findings.back().expert = difference.expert;
    }
    const auto is_hidden = [&](std::string_view tap) { return !held.is_shown(tap); };
    if (const auto hidden = std::ranges::count_if(saved.taps(), is_hidden); hidden > 0)
      census.note(fmt::format("{} of {}: no rank shows {} of its {} tensors at that moment", save_text(steps), life.life.name, hidden, saved.taps().size()));
    StateScan scan(life.life.one.problem);
    for (const std::string_view tap : saved.taps())
      if (held.is_shown(tap)) scan.compare_saved(tap, saved.global(tap), held.parts(tap));
    census.outcome.compared += scan.compared();
    std::ranges::move(findings_of(scan, life, "in " + save_text(steps)), std::back_inserter(findings));
  }
  for (record::Finding& finding : findings) {
    if (finding.stage == kSave) finding.cls = record::FindingClass::kContract;
    if (steps > 0) finding.step = steps;
  }
  add(census, std::move(findings));
}

void look_at_saves(Census& census, const LifeInput& life) {
  for (const cases::PlannedSave& planned : life.life.saves) {
    const bool is_lost = planned.crash != cases::CrashPoint::kNone && planned.crash != cases::CrashPoint::kCommitted;
    if (is_lost || life.saves.contains(planned.after)) continue;
    auto finding = finding_about(life, kSave, save_text(planned.after) + " is not there");
    finding.cls = record::FindingClass::kContract;
    add(census, {finding});
  }
  for (const auto& [steps, save] : life.saves) look_at_save(census, life, steps, save);
}

void look_at_load(Census& census, const LifeInput& life, const LifeInput& from, Dim steps) {
  const auto save = from.saves.find(steps);
  if (save == from.saves.end() || !save->second.problems.empty())
    return census.note(fmt::format("{} not compared with {}, which is not sound", life.life.name, save_text(steps)));
  const SavedTensors saved(save->second, census.input.one, steps);
  const HeldState held = loaded_state(life);
  StateScan scan(life.life.one.problem);
  for (const std::string_view tap : saved.taps()) {
    if (!held.is_shown(tap)) scan.add({tap, std::nullopt, std::nullopt, 0, "was not restored: no rank shows this tensor", {}});
    else scan.compare_all(tap, saved.global(tap), held.parts(tap));
  }
  census.outcome.compared += scan.compared();
  add(census, findings_of(scan, life, "loaded from " + save_text(steps)));
}

CheckOutcome run(const CaseInput& input) {
  Census census{input};
  if (input.one.checkpointing.save == cases::SaveFormat::kNone) {
    census.outcome.note = "nothing is saved";
    return std::move(census.outcome);
  }
  std::vector<cases::Life> lives;
  for (const LifeInput& life : input.lives) lives.push_back(life.life);
  for (const LifeInput& life : input.lives) {
    if (life.life.from) look_at_load(census, life, input.lives[*life.life.from], cases::steps_before(lives, life.life));
    look_at_saves(census, life);
  }
  conclude(census.outcome, "no save and no load showed a tensor");
  return std::move(census.outcome);
}

MOECHECK_REGISTER_CHECK({.name = kName,
                         .doc = {"every save is sound on disk and holds what the ranks held when they saved, each global index once, under the "
                                 "declared names; every later life holds after its load, on every rank and in every replica, the bytes of the "
                                 "save, the optimizer's moments included; if not, says whose they are",
                                 "that what was saved is right (the checks of each batch); that the next step uses what was loaded",
                                 "saves; param/*, optim/*, state/* at a save and after a load", "a life saves"},
                         .run_case = run});

}  // namespace
}  // namespace moecheck::check
