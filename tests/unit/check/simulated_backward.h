// The backward of a simulated run, in plain loops from the stages that it shows, and what is left of a run that hides its inside.
#pragma once

#include "simulated_run.h"

namespace moecheck::check {

// Adds grad/* of the tokens, the routing and the parameters, rounded stage by stage to the dtype as the forward is.
// is_dx_reduced: false leaves every rank with its own part of grad/x_TD.
// Requires: no tp, nothing gathered, scores after the experts.
void add_backward(SimulatedRun& run, bool is_dx_reduced = true);

// Drops what a framework does not show: dispatch, experts, combine. Without the router, logits, scores and their gradients go too.
void hide_inside(SimulatedRun& run);
void hide_router(SimulatedRun& run);
void hide_choices(SimulatedRun& run);   // router/ids

}  // namespace moecheck::check
