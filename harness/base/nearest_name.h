// "did you mean": the closest of the known names, if one is close.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace moecheck::base {

// By edit distance, transpositions counted once; at most a third of the name may differ.
std::optional<std::string> nearest_name(std::string_view name, std::span<const std::string> known);

// "; did you mean 'x'?" or "; known: a, b, c"
std::string suggestion(std::string_view name, const std::vector<std::string>& known);

}  // namespace moecheck::base
