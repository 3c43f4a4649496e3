// From a scenario to its cases.
#pragma once

#include <vector>

#include "harness/base/result.h"
#include "harness/cases/case.h"
#include "harness/scenario/scenario.h"

namespace moecheck::scenario {

constexpr std::size_t kMaxCasesOfAScenario = 20'000;

// The order is that of the file: the matrix with its last axis fastest, then the included cases.
//
//   1. The product of the matrix axes over the base knobs. Without a matrix: the base knobs alone, or nothing if there is `include`.
//   2. exclude removes each combination whose canonical values (given, default or family's) equal all of an entry's knobs.
//      An entry that no combination matches is an error.
//   3. include adds base knobs plus the entry's knobs as one case each.
//   4. set_overrides replaces knobs in every case. Cases that become the same by it are kept once, the first one.
//   5. Each becomes a Case, with the scenario's name and tags and the reason of the first xfail entry that it matches.
//      Without set_overrides an xfail entry that matches no case is an error.
//
// Two cases with one id are an error without set_overrides. No case at all is an error.
// Errors: kUsage at the knob to blame in the file, or where="--set <knob>" if an override is to blame.
base::Result<std::vector<cases::Case>> expand(const Scenario& scenario, const cases::KnobValues& set_overrides,
                                              const cases::FamilyLoader& load_family);

}  // namespace moecheck::scenario
