// Rows of the knob table for loading, saving and restarting.
#pragma once

#include <vector>

#include "harness/cases/fields.h"

namespace moecheck::cases {

// The text of a case without restarts; "none" is a mesh of one rank.
inline constexpr std::string_view kNoRestart = "never";

// A restart on the layout that the case began on.
inline constexpr std::string_view kBack = "back";

std::vector<Field> checkpoint_fields();

}  // namespace moecheck::cases
