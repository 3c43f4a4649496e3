// Covering arrays: few rows in which every combination of values of every few axes occurs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace moecheck::scenario {

// One candidate: for each axis the index of its value.
using ValueIds = std::vector<std::uint32_t>;

// Chooses rows so that for every `strength` axes, each combination of their values that occurs in `candidates` occurs in a chosen row.
// A combination that no candidate has cannot be covered and is not asked for. With fewer axes than `strength`: all rows.
//
// Greedy: the next row is always the one with the most combinations that no chosen row has yet, the first of equals. Rows are few that
// way, not the fewest possible.
//
// Shapes:   num_values_A values of each of A axes; candidates are rows of A indices -> indices of chosen candidates, ascending.
// Requires: strength >= 1; candidates[i][a] < num_values_A[a]; candidates pairwise different.
// Determinism: a pure function of its arguments, in integers alone: the same on every platform.
// Cost:     with R rows and S = C(A, strength) sets of axes, R S steps and R / 64 for each combination, however many rows are chosen.
std::vector<std::size_t> covering_rows(const std::vector<std::size_t>& num_values_A, const std::vector<ValueIds>& candidates,
                                       std::size_t strength);

}  // namespace moecheck::scenario
