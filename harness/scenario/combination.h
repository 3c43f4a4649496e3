// A case to be: knobs with their places, before it is known whether they make sense together.
#pragma once

#include <map>
#include <string>

#include "harness/base/result.h"
#include "harness/cases/case.h"
#include "harness/scenario/covering.h"
#include "harness/scenario/scenario.h"

namespace moecheck::scenario {

struct Combination {
  cases::KnobValues knobs;
  std::map<std::string, Spot, std::less<>> spots;
  Spot whole;  // for what no knob in the file is to blame

  void take(const KnobSetting& knob);
};

// What the scenario sets outside of matrix and include.
Combination base_of(const Scenario& scenario);

// The base with one value of each axis. Requires: one index for each axis of the matrix.
Combination combination_of(const Scenario& scenario, const ValueIds& value_ids);

// Whether the canonical values of `one` (given, default or family's) equal all of the group's, also where the whole makes no sense:
// that may be why it is excluded.
bool is_matched(const KnobGroup& group, const Combination& one, const cases::FamilyLoader& load_family);

// make_case names the knob to blame in Error::where; here it becomes "--set <knob>" or the knob's place in the file.
base::Error located(const base::Error& error, const Scenario& scenario, const Combination& one, const cases::KnobValues& set_overrides);

}  // namespace moecheck::scenario
