// A trace of a sound subject, made from the reference's own stages on the ranks of a mesh, for the tests of evaluate().
#pragma once

#include <string>

#include "harness/cases/case.h"
#include "harness/trace/expected.h"
#include "harness/trace/trace.h"
#include "tests/unit/reference/layer_fixtures.h"

namespace moecheck::reference {

// 12 experts over the mesh, top 2; normal or exact values.
cases::Case small_case(const std::string& mesh, model::Values values);

// Experts are sharded in blocks over ep, F over tp (gate and up each: StridedShard(1,2)); a rank shows rows of its own
// experts only. Activations are recorded in fp64, so that recording rounds nothing.
trace::Trace sound_trace(const cases::Case& one);

// Adds 1 to the first element of a tap, and only there.
trace::Trace perturbed(const trace::Trace& trace, std::size_t rank, const std::string& tap);
// Replaces row 0 of dispatch/rows_R3 of rank 0.
trace::Trace with_first_key(const trace::Trace& trace, std::vector<std::int64_t> token_slot_expert);

// "rank tap" of every tap whose value, magnitude or comparable rows differ; "rank end_to_end" too.
std::vector<std::string> changed_taps(const trace::Expected& before, const trace::Expected& after);

}  // namespace moecheck::reference
