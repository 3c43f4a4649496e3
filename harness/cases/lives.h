// The lives of a case: a process group each, from its start to its end. A plain case has one; a save and restarts make more, and a
// run that is resumed is compared with others that never stopped.
//
//   main       loads the checkpoint that the case begins with, takes all steps, and saves after `save_after` of them.
//              With a crash it takes one step more, and is killed in the save after that one.
//   restart i  loads what the life before saved last, on its own layout, saves it again at once; the last one takes the steps
//              that are left.
//   control i  as main, and saves nothing. Only where a resumed run takes steps on the first layout.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "harness/cases/case.h"

namespace moecheck::cases {

using model::Dim;

enum class LifeKind { kMain, kRestart, kControl };

// A save of a life: after so many steps of the case; in a folder of its own below the life's.
struct PlannedSave {
  Dim after = 0;
  CrashPoint crash = CrashPoint::kNone;   // the ranks are killed there
  bool operator==(const PlannedSave&) const = default;
};

struct Life {
  LifeKind kind = LifeKind::kMain;
  std::string name;                 // "main", "restart 1 on ep=4", "control 2"
  // As it is judged: impl, mesh, first batch and last step of this life; phases are {"load"} where no batch follows.
  Case one;
  // As the subject is told: what follows a save is not its business.
  Case asked;
  bool takes_batches = true;
  std::optional<std::size_t> from;  // the life whose last save it loads; none: the checkpoint that the case begins with
  std::vector<PlannedSave> saves;   // in order
};

// In the order in which they run. Life 0 is main.
std::vector<Life> lives_of(const Case& one);

// The steps after which the save was taken that a life loads; 0 for the checkpoint that the case begins with.
Dim steps_before(const std::vector<Life>& lives, const Life& life);

// "step-2": the folder of a save.
std::string save_folder(Dim after);

}  // namespace moecheck::cases
