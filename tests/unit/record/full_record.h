// A record that uses every field, with the values that JSON has no numbers for.
#pragma once

#include "harness/record/run_record.h"

namespace moecheck::record {

RunRecord full_record();

}  // namespace moecheck::record
