// One problem in several layouts has one result. With values=exact not a bit of it may differ between the cases of a run.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "harness/record/run_record.h"

namespace moecheck::driver {

inline constexpr const char* kLayoutInvariance = "layout_invariance";

struct LayoutFinding {
  std::size_t index = 0;   // of the case
  record::Finding finding;
};

// Compares the digests (harness/check/digests.h) of passed cases that state the same problem: that differ in impl, mesh, split of
// the tokens, tokens_over, expert_tp, experts_backend, recompute and device only. Routing that depends on the mesh (idle_rank,
// k_ranks, one_rank) is compared between equal sizes of ep.
// A tensor that differs from that of most sound cases (ties: from the first one's) is a finding in that case's name, which names
// the first case that has the usual one. Cases with an injected fault are compared and have no say. Alone: nothing to compare with.
// Proves:       a layout's result is that of the others, end to end, bit by bit.
// Cannot prove: anything about tensors in which sums are rounded, or about what all layouts have wrong.
std::vector<LayoutFinding> layout_findings(std::span<const record::CaseRecord> cases);

// The case with one more finding that fails it; what it passed before (pass, xpass) is over.
record::CaseRecord with_layout_finding(record::CaseRecord one, record::Finding finding);

}  // namespace moecheck::driver
