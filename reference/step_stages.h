// What an optimizer's step should have shown, each stage fed with the rank's own recorded inputs of that stage.
// Formulas: reference/optimizer.h. All of it is elementwise on the local shards but for the norm, which is over all ranks.
#pragma once

#include <span>

#include "harness/cases/case.h"
#include "harness/trace/expected.h"
#include "harness/trace/trace.h"

namespace moecheck::reference {

// Adds optim/* of the last of `batches` to `expected`, if that batch ends a step.
// A tap is absent if an input of it is not recorded, or not in the shape that the layout gives the rank.
// Requires: expected.ranks is as long as the last batch's ranks.
void expect_step(const cases::Case& one, std::span<const trace::Trace> batches, trace::Expected& expected);

}  // namespace moecheck::reference
