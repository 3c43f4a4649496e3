// Recognises experts that stand at other places: permuted, renumbered, copied.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "harness/base/host_tensor.h"

namespace moecheck::checkpoint {

using TensorsOfExperts = std::map<std::int64_t, base::HostTensor>;

// Experts a .. a + count - 1 of A are experts b .. b + count - 1 of B.
struct ExpertMove {
  std::int64_t a = 0;
  std::int64_t b = 0;
  std::int64_t count = 1;
  bool is_copy = false;    // they stand at another place of B too
  bool is_exact = true;    // the same bytes; else alike, as after a cast or a few steps
  bool operator==(const ExpertMove&) const = default;
};

struct ExpertMatch {
  std::vector<ExpertMove> moves;        // without those that stayed; empty: nothing recognised
  std::set<std::int64_t> unmatched_b;   // experts of B that are none of A's
  std::set<std::int64_t> lost_a;        // experts of A that are nowhere in B
  bool is_permutation = false;          // the moved ones changed places among themselves
  bool is_rest_equal = true;            // experts of B that did not move have the same bytes as in A
  bool operator==(const ExpertMatch&) const = default;

  bool has_moved_a(std::int64_t expert) const;
  bool has_moved_b(std::int64_t expert) const;
};

// For each expert of B the one of A with the same bytes, its own number first; failing that one of A that is near while all
// others are far.
ExpertMatch match_experts(const TensorsOfExperts& a, const TensorsOfExperts& b);

// "permuted: 0<->1", "permuted: 0->2->1->0" (A's 0 is B's 2), "experts 4..7 of A are experts 0..3 of B; nowhere in B: experts
// 0..3 of A", "experts 0..3 of A are also experts 4..7 of B".
std::string match_text(const ExpertMatch& match);

}  // namespace moecheck::checkpoint
