// Shards of what takes steps, as ranks recorded them.
#pragma once

#include <array>
#include <optional>
#include <span>
#include <string_view>

#include "harness/cases/case.h"
#include "harness/trace/trace.h"
#include "reference/matrix.h"

namespace moecheck::reference {

// As the taps of a step name them: optim/<kind>/<parameter>.
inline constexpr std::array<std::string_view, 3> kStepParameters = {"router/w_ED", "experts/gate_up_EGD", "experts/down_EDF"};

// A local shard as one row, whatever its shape.
using Flat = Matrix<double>;

// Nothing if the rank did not show it in that batch, or not in floating point and the shape that the layout gives the rank.
// Requires: the table has the tap.
std::optional<Flat> recorded_shard(const cases::Case& one, const trace::Trace& batch, Dim rank, std::string_view tap);

}  // namespace moecheck::reference
