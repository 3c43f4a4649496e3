// The collectives of a run, group by group, and where two ranks of a group disagree about them.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "harness/check/registry.h"

namespace moecheck::check {

// One group of ranks, and what each sent over it.
struct GroupCalls {
  std::string dims;                                   // "ep"
  std::vector<Dim> ranks;                             // by coordinate, at least two
  std::vector<std::vector<trace::Collective>> sent;   // beside ranks
};

// Every group that any rank names, once. Ranks that are alone in a group wait for nobody and are left out.
std::vector<GroupCalls> groups_of(const CheckInput& input);

struct Disagreement {
  Dim rank = 0;
  std::string site;
  std::string message;
};

// Where `member` first disagrees with `leader`, both indices into ranks: in kind, operation, dtype, site, sequence number or size;
// in the number of collectives, unless the run was cut short.
std::optional<Disagreement> first_disagreement(const GroupCalls& group, std::size_t leader, std::size_t member, bool was_cut);

// Of `member`, where its sequence numbers do not go up by one.
std::optional<Disagreement> first_gap(const GroupCalls& group, std::size_t member);

// "all_reduce over ep (sum, fp32, 70 elements, sequence 3, at output/y_TD)"
std::string words(const trace::Collective& collective);

}  // namespace moecheck::check
