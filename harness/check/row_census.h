// Which (token, slot) rows the ranks of a layer group have to compute and to sum, and which of them they show.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "harness/check/place.h"

namespace moecheck::check {

// (token, slot) rows that a rank shows wrongly, in a few groups of one kind each.
struct RowFault {
  std::string_view tap;
  Dim rank = 0;
  std::vector<RowKey> keys;   // at least one
  std::string what;           // "are computed twice"
};

// Every slot of the group's tokens whose expert the rank holds, in order of token and slot.
std::vector<RowKey> wanted_rows(const model::Problem& problem, const GroupRouting& routing, Dim rank);

// What dispatch/rows_R3 of a rank lacks, repeats, or has too much. Requires: it is as declared.
std::vector<RowFault> computed_faults(const CheckInput& input, const GroupRouting& routing, Dim rank);

// What combine/rows_N3 of the ranks of a layer group lack, repeat, or have too much: each slot of a token is summed once by the ranks
// that hold the token; where tp cuts the experts once for each tp rank, whose row is a part of the sum.
// Requires: every rank of the group shows it as declared.
std::vector<RowFault> combined_faults(const CheckInput& input, const std::vector<Dim>& group);

}  // namespace moecheck::check
