// Proves:       a run that saved goes on as runs that did not: every tap of every batch after the save is what the controls show,
//               bit for bit if these agree bit for bit, else each kind of taps within their envelope.
// Cannot prove: that the save is right (checkpoint_census); anything where the last steps come before the save; what is smaller than
//               the noise of a subject that does not repeat itself.
// Reads:        every tap of main and of the controls after the save      Applies when: there is a control, and a step after the save
#include "harness/check/readable.h"
#include "harness/check/run_comparison.h"

namespace moecheck::check {
namespace {

constexpr std::string_view kName = "save_undisturbed";

CheckOutcome run(const CaseInput& input) {
  CheckOutcome none;
  if (input.one.checkpointing.save == cases::SaveFormat::kNone || !input.one.has_phase("step")) {
    none.note = "nothing is saved between steps";
    return none;
  }
  const Dim first_batch = input.one.checkpointing.save_after * input.one.training.microbatches;
  ComparedRuns runs{.run = input.lives.front(), .first_batch = first_batch};
  for (const LifeInput& life : input.lives)
    if (life.life.kind == cases::LifeKind::kControl) runs.controls.push_back(&life);
  if (runs.controls.empty() || first_batch >= static_cast<Dim>(runs.run.batches.size())) {
    none.note = runs.controls.empty() ? "no control ran" : "no step follows the save";
    return none;
  }
  CheckOutcome outcome = compare_runs(kName, runs);
  conclude(outcome, "nobody shows a tap after the save");
  return outcome;
}

MOECHECK_REGISTER_CHECK({.name = kName,
                         .doc = {"a run that saved goes on as runs that did not: every tap of every batch after the save is what the controls "
                                 "show, bit for bit if these agree bit for bit, else each kind of taps within their envelope",
                                 "that the save is right (checkpoint_census); anything where the last steps come before the save; what is "
                                 "smaller than the noise of a subject that does not repeat itself",
                                 "every tap of main and of the controls after the save", "there is a control, and a step after the save"},
                         .run_case = run});

}  // namespace
}  // namespace moecheck::check
