// Compares every tap of one life with the same taps of lives that did the same without what is under test: bit for bit where these
// agree bit for bit among themselves, everywhere; else kind by kind by how far they are apart (check/run_noise.h, tolerance/envelope.h).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "harness/check/registry.h"

namespace moecheck::check {

struct ComparedRuns {
  const LifeInput& run;
  std::vector<const LifeInput*> controls = {};   // on the same layout
  // Where there are fewer controls than an envelope needs: a run that must be equal if all is well, but proves nothing if not.
  const LifeInput* witness = nullptr;
  Dim first_batch = 0;
};

// In stage order, batch by batch. Findings: a bug at the first tap of each rank that is not what it must be, or where most of the first
// distance is that is beyond an envelope; noise at the first occurrence of a kind, what cannot be told at that of a tap. Taps of loaded
// parameters that no control shows are left out.
// Note: how many taps were compared, how many differ.
CheckOutcome compare_runs(std::string_view check, const ComparedRuns& runs);

}  // namespace moecheck::check
