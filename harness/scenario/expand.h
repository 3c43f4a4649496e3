// From a scenario to its cases.
#pragma once

#include <vector>

#include "harness/base/result.h"
#include "harness/cases/case.h"
#include "harness/scenario/scenario.h"

namespace moecheck::scenario {

constexpr std::size_t kMaxCasesOfAScenario = 20'000;
constexpr std::size_t kMaxCandidatesOfACover = 200'000;  // combinations of a matrix with `cover`

// The order is that of the file: the matrix with its last axis fastest, then the included cases.
//
//   1. The product of the matrix axes over the base knobs. Without a matrix: the base knobs alone, or nothing if there is `include`.
//   2. exclude removes each combination whose canonical values (given, default or family's) equal all of an entry's knobs.
//      An entry that no combination matches is an error.
//   3. cover: N keeps a few of the combinations that make sense as a case: every combination of values of every N axes that one of them
//      has is in a kept one (covering.h). Without cover a combination that makes no sense is an error; with it only a value is that
//      occurs in no combination that makes sense.
//   4. include adds base knobs plus the entry's knobs as one case each.
//   5. set_overrides replaces knobs in every case. Cases that become the same by it are kept once, the first one.
//   6. Each becomes a Case, with the scenario's name and tags and the reason of the first xfail entry that it matches.
//      Without set_overrides an xfail entry that matches no case, nor one that cover chose among, is an error.
//
// Two cases with one id are an error without set_overrides. No case at all is an error.
// Errors: kUsage at the knob to blame in the file, or where="--set <knob>" if an override is to blame.
base::Result<std::vector<cases::Case>> expand(const Scenario& scenario, const cases::KnobValues& set_overrides,
                                              const cases::FamilyLoader& load_family);

}  // namespace moecheck::scenario
