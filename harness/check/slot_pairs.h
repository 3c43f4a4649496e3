// What the local experts are given, slot by slot, held against the routing of the ranks that have the tokens. For layers that show
// dispatch/scores_TK and dispatch/ids_TK; rows that travel (all-to-all) are token_conservation's.
#pragma once

#include <string_view>
#include <vector>

#include "harness/check/registry.h"

namespace moecheck::check {

// Of one rank: its gathered tokens are all that its layer group has, each once; scores and local ids are the routers' where an
// expert is local, else 0 and the sentinel.
std::vector<record::Finding> mispaired_slots(const CheckInput& input, std::string_view check, Dim rank);

// Of ranks that the experts are spread over: each slot of their tokens is taken by one of them.
std::vector<record::Finding> uncovered_slots(const CheckInput& input, std::string_view check, const std::vector<Dim>& group);

}  // namespace moecheck::check
