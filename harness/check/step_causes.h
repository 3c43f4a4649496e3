// The optimizer's state as ranks show it, and what may be behind a wrong step.
#pragma once

#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "harness/check/readable.h"
#include "harness/trace/expected.h"

namespace moecheck::check {

// Trainable parameters, as the taps of a step name them: optim/<kind>/<parameter>.
inline constexpr std::array<std::string_view, 3> kTrainable = {"router/w_ED", "experts/gate_up_EGD", "experts/down_EDF"};

// "router/w_ED" of "optim/m/router/w_ED"; empty for the taps of the whole step.
std::string_view trainable_of(std::string_view tap);

// Of the taps of a step those of the optimizer; the others, state/*, say where the training stands (training_state).
bool is_optimizer_tap(std::string_view tap);

// Taps of the optimizer: those of parameters, or those of the step as a whole. Only what the optimizer of the case has.
std::vector<std::string_view> step_taps(const CheckInput& input, bool are_of_parameters);

// State of a parameter that a rank lacks. Not missing is a kind of state that no rank shows for any parameter: the subject does
// not offer it.
std::vector<std::string_view> lacking_state(const CheckInput& input, const trace::RankTrace& rank, std::string_view parameter);

// The master weights that the step began with, those of the step before or the loaded parameter; nullptr if not shown.
const base::HostTensor* before_step(const CheckInput& input, Dim rank, std::string_view parameter);

// What a weight after a step, optim/master/*, optim/param/* or param/* of the batch that follows, was before it; nullptr if not shown, or
// for a tap of another kind.
const base::HostTensor* weights_before(const CheckInput& input, Dim rank, std::string_view tap);

// Causes are words for a reader, no verdict hangs on them.

// Which parameters' squares a wrong global norm lacks, or counts too often; empty if none explains it.
std::string norm_clause(const CheckInput& input, Dim rank, double got, double want);

// A wrong element of a parameter's gradient or state.
struct WrongState {
  std::string_view tap;   // optim/<kind>/<parameter>
  Dim rank = 0;
  const base::HostTensor& got;
  const trace::ExpectedTap& expected;
  Dim row = 0;            // of the worst element, along dim 0
};

// Of a weight after a step: it is judged by its update, since a wrong one is small beside the weight. "router/w_ED did not move", a gain,
// a decay that is missing; empty if nothing fits. Requires: as state_clause.
std::string update_clause(const CheckInput& input, const WrongState& wrong);

// "router/w_ED did not move", microbatches averaged, or a gain of the row (of its update, for the master); empty if nothing fits.
// Requires: got has the shape of expected.value, and elements.
std::string state_clause(const CheckInput& input, const WrongState& wrong);

}  // namespace moecheck::check
