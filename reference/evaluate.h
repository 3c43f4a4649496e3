// What a subject should have shown, each stage fed with the subject's own recorded inputs of that stage, in double, and with the
// true weights: a wrong weight shows at the stage that multiplies with it, and nowhere else. From an optimizer's first step on
// the true weights are those that the subject shows, since the step itself is a stage of its own.
#pragma once

#include <span>

#include "harness/cases/case.h"
#include "harness/trace/expected.h"
#include "harness/trace/trace.h"

namespace moecheck::reference {

// Of the last of `batches`; the earlier ones are its history.
// ranks[r] of the result belongs to ranks[r] of that batch, which is rank r of the case's mesh.
// A tap is absent if the subject did not show it, or nothing can be said about it: an input of the stage is missing, or a
// local shape does not fit. A row is not comparable if its key (token, slot, expert) is not a routed row, an id in it is
// not an expert, or an input of this row alone is missing. NaN of the inputs goes on into the value. Never aborts on what a
// subject wrote.
// Cost: generates each expert that has rows once and holds one at a time.
trace::Expected evaluate(const cases::Case& one, std::span<const trace::Trace> batches);

}  // namespace moecheck::reference
