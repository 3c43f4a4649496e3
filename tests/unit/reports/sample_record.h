// A run as it comes out of a working day: every verdict a reader meets, with the grids and numbers that belong to it.
#pragma once

#include "harness/record/run_record.h"

namespace moecheck::reports::sample {

record::RunRecord realistic_run();
// A subject that names everything so that a careless report breaks.
record::RunRecord hostile_run();
record::RunRecord passing_run(int num_cases);

// Strings in hostile_run() that must not come out as they are.
constexpr const char* kScript = "<script>document.title='owned'</script>";
constexpr const char* kImage = "<img src=x onerror=\"document.title='owned'\">";

}  // namespace moecheck::reports::sample
