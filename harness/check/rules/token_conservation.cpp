// Proves:       every (token, slot) of the tokens that a layer group has is computed exactly once by a rank that holds its expert (on
//               every tensor-parallel rank that cuts it), the counts say so too, and with all-to-all every row comes back exactly once.
// Cannot prove: that the rows were computed right, or that the routing was.
// Reads:        router/ids, dispatch/rows, dispatch/counts, combine/rows      Applies when: a forward ran
#include <algorithm>

#include <fmt/format.h>

#include "harness/check/readable.h"
#include "harness/check/row_census.h"

namespace moecheck::check {
namespace {

constexpr std::string_view kName = "token_conservation";
constexpr std::string_view kIds = "router/ids_TK";
constexpr std::string_view kRows = "dispatch/rows_R3";
constexpr std::string_view kCounts = "dispatch/counts_e";
constexpr std::string_view kCombined = "combine/rows_N3";

void report(const std::vector<RowFault>& faults, CheckOutcome& outcome) {
  for (const RowFault& fault : faults) {
    const std::string_view noun = fault.keys.size() == 1 ? "pair" : "pairs";
    auto finding = make_finding(kName, fault.tap, fault.rank, fmt::format("{} (token, slot) {} {}", fault.keys.size(), noun, fault.what));
    set_place(fault.keys.front(), finding);
    finding.measured = static_cast<double>(fault.keys.size());
    finding.bound = 0;
    finding.compared = outcome.compared;
    outcome.findings.push_back(std::move(finding));
  }
}

void compare_counts(const CheckInput& input, Dim rank, const base::HostTensor* counts_e, const std::vector<Dim>& rows_of_expert,
                    CheckOutcome& outcome) {
  if (counts_e == nullptr) return;
  const trace::LocalExperts local = trace::local_experts(input.one.problem, rank);
  for (Dim e = 0; e < local.count; ++e) {
    const Dim want = rows_of_expert[static_cast<std::size_t>(e)];
    const Dim got = counts_e->int_at(e);
    if (got == want) continue;
    auto finding = make_finding(kName, kCounts, rank, fmt::format("counts {} rows, {} were computed", got, want));
    finding.expert = local.first + e;
    finding.want = static_cast<double>(want);
    finding.got = static_cast<double>(got);
    finding.measured = static_cast<double>(got > want ? got - want : want - got);
    finding.bound = 0;
    finding.compared = local.count;
    outcome.findings.push_back(std::move(finding));
    return;  // the first of a rank; a shifted count makes all that follow differ
  }
}

void look_at_rank(const CheckInput& input, const Readable& taps, Dim rank, CheckOutcome& outcome) {
  const base::HostTensor* rows_R3 = taps.get(rank, kRows);
  if (taps.get(rank, kIds) == nullptr || rows_R3 == nullptr) return;
  const GroupRouting routing(input, rank);
  outcome.compared += static_cast<std::int64_t>(wanted_rows(input.one.problem, routing, rank).size());
  report(computed_faults(input, routing, rank), outcome);
  if (const Dim padding = index_rows(*rows_R3).num_padding; padding > 0)
    outcome.note += fmt::format("{}rank {}: {} padding rows", outcome.note.empty() ? "" : "; ", rank, padding);

  const trace::LocalExperts local = trace::local_experts(input.one.problem, rank);
  std::vector<Dim> rows_of_expert(static_cast<std::size_t>(local.count), 0);
  for (Dim row = 0; row < rows_R3->dim(0); ++row)
    if (const RowKey key = row_key(*rows_R3, row); local.has(key.expert))
      ++rows_of_expert[static_cast<std::size_t>(key.expert - local.first)];
  compare_counts(input, rank, taps.get(rank, kCounts), rows_of_expert, outcome);
  for (Dim e = 0; e < local.count; ++e)
    outcome.experts.push_back({rank, local.first + e, true, rows_of_expert[static_cast<std::size_t>(e)], 0, ""});
}

// The sum over a layer group; says something of its own where the ranks' routings differ, or an id is out of range.
void look_at_group(const CheckInput& input, const Readable& taps, const std::vector<Dim>& group, CheckOutcome& outcome) {
  const model::Problem& problem = input.one.problem;
  Dim computed = 0;
  for (const Dim rank : group) {
    const base::HostTensor* rows_R3 = taps.get(rank, kRows);
    if (rows_R3 == nullptr || taps.get(rank, kIds) == nullptr) return;
    computed += rows_R3->dim(0) - index_rows(*rows_R3).num_padding;
  }
  const Dim num_tokens = static_cast<Dim>(GroupRouting(input, group.front()).tokens().size());
  const Dim want = num_tokens * problem.model.top_k * (problem.cuts_experts() ? problem.mesh.size("tp") : 1);
  if (computed == want) return;
  auto finding = make_finding(kName, kRows, group.front(),
                              fmt::format("the {} ranks of its group compute {} rows, declared {}", group.size(), computed, want));
  finding.want = static_cast<double>(want);
  finding.got = static_cast<double>(computed);
  finding.compared = want;
  outcome.findings.push_back(std::move(finding));
}

void look_at_combined(const CheckInput& input, const Readable& taps, const std::vector<Dim>& group, CheckOutcome& outcome) {
  for (const Dim rank : group) {
    const base::HostTensor* rows_N3 = taps.get(rank, kCombined);
    if (rows_N3 == nullptr) return;   // a finding of Readable already
    outcome.compared += rows_N3->dim(0);
  }
  report(combined_faults(input, group), outcome);
}

CheckOutcome run(const CheckInput& input) {
  std::vector<std::string_view> needed = {kIds, kRows};
  if (is_all_to_all(input)) needed.push_back(kCombined);
  const Readable taps(input, kName, needed, {kCounts});
  if (!taps.absent().empty()) return taps.unobserved();
  CheckOutcome outcome;
  outcome.findings = taps.findings();
  for (Dim rank = 0; rank < input.one.world_size(); ++rank) look_at_rank(input, taps, rank, outcome);
  const bool is_all_computed = outcome.findings.empty();
  for (Dim rank = 0; rank < input.one.world_size(); ++rank) {
    const std::vector<Dim> group = input.one.problem.layer_group(rank);
    if (*std::ranges::min_element(group) != rank) continue;
    if (is_all_computed) look_at_group(input, taps, group, outcome);
    if (is_all_to_all(input)) look_at_combined(input, taps, group, outcome);
  }
  conclude(outcome, "no token was routed");
  return outcome;
}

MOECHECK_REGISTER_CHECK({kName,
                         {"every (token, slot) of the tokens that a layer group has is computed exactly once by a rank that holds its "
                          "expert (on every tensor-parallel rank that cuts it), the counts say so too, and with all-to-all every row comes "
                          "back exactly once",
                          "that the rows were computed right, or that the routing was",
                          "router/ids, dispatch/rows, dispatch/counts, combine/rows", "a forward ran"},
                         run});

}  // namespace
}  // namespace moecheck::check
