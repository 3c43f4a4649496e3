// Which combinations of the matrix become cases.
#pragma once

#include <vector>

#include "harness/base/result.h"
#include "harness/cases/case.h"
#include "harness/scenario/combination.h"
#include "harness/scenario/scenario.h"

namespace moecheck::scenario {

struct Choice {
  std::vector<Combination> chosen;     // in the order of the matrix
  std::vector<bool> is_xfail_matched;  // each entry of xfail: whether it matches one that cover chose among; all false without cover
};

// Without `cover`: the product less what `exclude` removes, or the bare base if there is neither matrix nor include.
// With it: of those that also make sense as a case (`cases::make_case`) the ones that covering_rows names.
//
// `set_overrides` matters only where the scenario lacks a required knob, so that what is chosen does not depend on it otherwise.
// Errors: kUsage for a matrix that is too large, at the axis; for an exclude that matches nothing; with `cover` also for a value of an axis
//         all of whose combinations make no sense, with the first reason. A family that cannot be read is an error, not a combination less.
base::Result<Choice> choose(const Scenario& scenario, const cases::KnobValues& set_overrides, const cases::FamilyLoader& load_family);

}  // namespace moecheck::scenario
