// What an optimizer's step should have left where what it was computed from is not shown: a subject with a step of its own that shows
// only its parameters, say, or masters without moments. Counterpart of reference/step_stages.h.
#pragma once

#include <span>

#include "harness/cases/case.h"
#include "harness/trace/expected.h"
#include "harness/trace/trace.h"

namespace moecheck::reference {

// Adds to expected.ranks[r].whole those of optim/* of the last of `batches` that are shown and not in expected.ranks[r].taps; and its
// param/* where it begins a step and the step before did not show them. From gradients that are recorded (reference/carried_state.h).
// If the case's dtype is not fp32 and no rank shows fp32 masters, the same taps of a step in that dtype are in expected.ranks[r].in_dtype.
// An element about which nothing is known is NaN. A tap is absent if a gradient that it rests on, or the state that a life
// resumed with, is not recorded.
// Requires: expected.ranks is as long as the last batch's ranks; what stages of their own can say is in it.
void expect_hidden_step(const cases::Case& one, std::span<const trace::Trace> batches, trace::Expected& expected);

}  // namespace moecheck::reference
