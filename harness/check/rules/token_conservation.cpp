// Proves:       every (token, slot) is computed exactly once in its expert-parallel group (on every tensor-parallel rank), by the
//               rank that holds its expert, and the counts say so too.
// Cannot prove: that the rows were computed right, or that the routing was.
// Reads:        router/ids, dispatch/rows, dispatch/counts      Applies when: a forward ran
#include <fmt/format.h>

#include "harness/check/join.h"
#include "harness/check/readable.h"

namespace moecheck::check {
namespace {

constexpr std::string_view kName = "token_conservation";
constexpr std::string_view kIds = "router/ids_TK";
constexpr std::string_view kRows = "dispatch/rows_R3";
constexpr std::string_view kCounts = "dispatch/counts_e";

// Keys that the rank has to compute: its tokens' slots whose expert it holds.
std::vector<RowKey> wanted_keys(const base::HostTensor& ids_TK, LocalExperts local) {
  std::vector<RowKey> keys;
  const Dim top_k = ids_TK.dim(1);
  for (Dim n = 0; n < ids_TK.numel(); ++n)
    if (local.has(ids_TK.int_at(n))) keys.push_back({n / top_k, n % top_k, ids_TK.int_at(n)});
  return keys;
}

void report(const CheckInput& input, Dim rank, const std::vector<RowKey>& keys, std::string_view what, CheckOutcome& outcome) {
  if (keys.empty()) return;
  const std::string_view noun = keys.size() == 1 ? "pair" : "pairs";
  auto finding = make_finding(kName, kRows, rank, fmt::format("{} (token, slot) {} {}", keys.size(), noun, what));
  finding.token = input.one.problem.first_token(rank) + keys.front().token;
  finding.slot = keys.front().slot;
  finding.expert = keys.front().expert;
  finding.measured = static_cast<double>(keys.size());
  finding.bound = 0;
  finding.compared = outcome.compared;
  outcome.findings.push_back(std::move(finding));
}

// Rows that nobody asked this rank for: which reading explains the first of them?
std::string_view why_unexpected(const RowKey& key, const base::HostTensor& ids_TK, LocalExperts local) {
  const bool is_slot = key.token >= 0 && key.token < ids_TK.dim(0) && key.slot >= 0 && key.slot < ids_TK.dim(1);
  if (!is_slot) return "are no token and slot of this rank";
  if (ids_TK.int_at(key.token * ids_TK.dim(1) + key.slot) != key.expert)
    return "are computed with an expert that the router did not choose";
  return local.has(key.expert) ? "are computed though not wanted" : "are computed by a rank that does not hold their expert";
}

void compare_counts(const CheckInput& input, Dim rank, const base::HostTensor* counts_e, const std::vector<Dim>& rows_of_expert,
                    CheckOutcome& outcome) {
  if (counts_e == nullptr) return;
  const LocalExperts local = local_experts(input.one.problem, rank);
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
  const base::HostTensor* ids_TK = taps.get(rank, kIds);
  const base::HostTensor* rows_R3 = taps.get(rank, kRows);
  if (ids_TK == nullptr || rows_R3 == nullptr) return;
  const LocalExperts local = local_experts(input.one.problem, rank);
  const RowIndex rows = index_rows(*rows_R3);
  const auto wanted = wanted_keys(*ids_TK, local);
  outcome.compared += static_cast<std::int64_t>(wanted.size());
  const RowJoin join = join_rows(rows, wanted);
  report(input, rank, join.missing, "of local experts are never computed", outcome);
  report(input, rank, join.duplicates, "are computed twice", outcome);
  if (!join.unexpected.empty()) report(input, rank, join.unexpected, why_unexpected(join.unexpected.front(), *ids_TK, local), outcome);
  if (rows.num_padding > 0)
    outcome.note += fmt::format("{}rank {}: {} padding rows", outcome.note.empty() ? "" : "; ", rank, rows.num_padding);

  std::vector<Dim> rows_of_expert(static_cast<std::size_t>(local.count), 0);
  for (Dim row = 0; row < rows_R3->dim(0); ++row)
    if (const RowKey key = row_key(*rows_R3, row); local.has(key.expert))
      ++rows_of_expert[static_cast<std::size_t>(key.expert - local.first)];
  compare_counts(input, rank, taps.get(rank, kCounts), rows_of_expert, outcome);
  for (Dim e = 0; e < local.count; ++e)
    outcome.experts.push_back({rank, local.first + e, true, rows_of_expert[static_cast<std::size_t>(e)], 0, ""});
}

// The sum over an expert-parallel group; says something of its own where the ranks' routings differ, or an id is out of range.
void look_at_group(const CheckInput& input, const Readable& taps, const std::vector<Dim>& group, CheckOutcome& outcome) {
  Dim computed = 0;
  for (const Dim rank : group) {
    const base::HostTensor* rows_R3 = taps.get(rank, kRows);
    if (rows_R3 == nullptr || taps.get(rank, kIds) == nullptr) return;
    computed += rows_R3->dim(0) - index_rows(*rows_R3).num_padding;
  }
  const Dim want = input.one.problem.num_tokens(group.front()) * input.one.problem.model.top_k;
  if (computed == want) return;
  auto finding = make_finding(kName, kRows, group.front(),
                              fmt::format("the {} ranks of its group compute {} rows, tokens times top-k are {}", group.size(),
                                          computed, want));
  finding.want = static_cast<double>(want);
  finding.got = static_cast<double>(computed);
  finding.compared = want;
  outcome.findings.push_back(std::move(finding));
}

CheckOutcome run(const CheckInput& input) {
  const Readable taps(input, kName, {kIds, kRows}, {kCounts});
  if (!taps.absent().empty()) return taps.unobserved();
  CheckOutcome outcome;
  outcome.findings = taps.findings();
  for (Dim rank = 0; rank < input.one.world_size(); ++rank) look_at_rank(input, taps, rank, outcome);
  if (outcome.findings.empty())
    for (Dim rank = 0; rank < input.one.world_size(); ++rank)
      if (const auto group = input.one.problem.mesh.group(rank, "ep"); group.front() == rank)
        look_at_group(input, taps, group, outcome);
  conclude(outcome, "no token was routed");
  return outcome;
}

MOECHECK_REGISTER_CHECK({kName,
                         {"every (token, slot) is computed exactly once in its expert-parallel group (on every tensor-parallel rank), by "
                          "the rank that holds its expert, and the counts say so too",
                          "that the rows were computed right, or that the routing was",
                          "router/ids, dispatch/rows, dispatch/counts", "a forward ran"},
                         run});

}  // namespace
}  // namespace moecheck::check
