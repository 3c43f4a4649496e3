// The JSON Schema of a scenario, for editors; generated from the knob table, so that it cannot lag behind it.
#pragma once

#include "harness/base/json.h"

namespace moecheck::scenario {

// JSON Schema 2020-12. Checked in as schema/scenario.schema.json; a test compares the two.
base::Json scenario_schema();

}  // namespace moecheck::scenario
