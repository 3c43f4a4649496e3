#include "harness/check/row_census.h"

#include <algorithm>
#include <map>

#include <fmt/format.h>

#include "harness/check/readable.h"

namespace moecheck::check {
namespace {

constexpr std::string_view kRows = "dispatch/rows_R3";
constexpr std::string_view kCombined = "combine/rows_N3";

// Rows that nobody asked this rank for: which reading explains one of them?
std::string why_unexpected(const RowKey& key, const GroupRouting& routing, trace::LocalExperts local) {
  const Dim expert = routing.expert_of(key.token, key.slot);
  if (expert < 0) return "are no token and slot of the rank's group";
  if (expert != key.expert) return "are computed with an expert that the router did not choose";
  return local.has(key.expert) ? "are computed though not wanted" : "are computed by a rank that does not hold their expert";
}

// Tokens whose routing nobody shows say nothing for or against a row.
bool is_undecided(const RowKey& key, const GroupRouting& routing) { return routing.tokens().contains(key.token) && !routing.is_known(key.token); }

void add(std::vector<RowFault>& faults, RowFault fault) {
  if (!fault.keys.empty()) faults.push_back(std::move(fault));
}

// Rows that came back to a rank and are none that it may sum.
void add_strangers(const model::Problem& problem, const GroupRouting& routing, Dim rank, const RowIndex& rows, std::vector<RowFault>& faults) {
  RowFault foreign{kCombined, rank, {}, "come back to a rank that does not hold their token"};
  RowFault wrong{kCombined, rank, {}, "come back from an expert that the router did not choose"};
  for (const auto& [key, row] : rows.row_of) {
    const Dim own = key.token - problem.first_token(rank);
    if (own < 0 || own >= problem.num_tokens(rank)) foreign.keys.push_back(key);
    else if (!is_undecided(key, routing) && routing.expert_of(key.token, key.slot) != key.expert) wrong.keys.push_back(key);
  }
  add(faults, std::move(foreign));
  add(faults, std::move(wrong));
}

// How often each key came back to a rank.
std::map<RowKey, Dim> times_combined(const base::HostTensor& rows_N3) {
  std::map<RowKey, Dim> times;
  for (Dim row = 0; row < rows_N3.dim(0); ++row) ++times[row_key(rows_N3, row)];
  return times;
}

// Ranks that sum a token's rows between them: all that hold it; those of one tp rank where each has parts of its own.
std::vector<std::vector<Dim>> summing_ranks(const model::Problem& problem, const std::vector<Dim>& owners) {
  if (!problem.cuts_experts() || problem.shards_tokens("tp")) return {owners};
  std::map<Dim, std::vector<Dim>> by_tp;
  for (const Dim owner : owners) by_tp[problem.mesh.coordinate(owner, "tp")].push_back(owner);
  std::vector<std::vector<Dim>> parts;
  for (auto& [tp, ranks] : by_tp) parts.push_back(std::move(ranks));
  return parts;
}

}  // namespace

std::vector<RowKey> wanted_rows(const model::Problem& problem, const GroupRouting& routing, Dim rank) {
  std::vector<RowKey> keys;
  const trace::LocalExperts local = trace::local_experts(problem, rank);
  for (const auto& [token, at] : routing.tokens())
    for (Dim slot = 0; slot < problem.model.top_k; ++slot)
      if (const Dim expert = routing.expert_of(token, slot); local.has(expert)) keys.push_back({token, slot, expert});
  return keys;
}

std::vector<RowFault> computed_faults(const CheckInput& input, const GroupRouting& routing, Dim rank) {
  const trace::LocalExperts local = trace::local_experts(input.one.problem, rank);
  const RowIndex rows = index_rows(*fitting_tensor(input, rank, kRows));
  RowJoin join = join_rows(rows, wanted_rows(input.one.problem, routing, rank));
  std::erase_if(join.unexpected, [&](const RowKey& key) { return is_undecided(key, routing); });
  std::vector<RowFault> faults;
  add(faults, {kRows, rank, join.missing, "of local experts are never computed"});
  add(faults, {kRows, rank, join.duplicates, "are computed twice"});
  if (!join.unexpected.empty()) add(faults, {kRows, rank, join.unexpected, why_unexpected(join.unexpected.front(), routing, local)});
  return faults;
}

std::vector<RowFault> combined_faults(const CheckInput& input, const std::vector<Dim>& group) {
  const model::Problem& problem = input.one.problem;
  const GroupRouting routing(input, group.front());
  std::map<Dim, std::map<RowKey, Dim>> times;                // by rank
  std::map<Dim, std::vector<RowKey>> missing, repeated;      // by a rank of those that sum a token between them
  std::vector<RowFault> faults;
  for (const Dim rank : group) {
    const base::HostTensor& rows_N3 = *fitting_tensor(input, rank, kCombined);
    times[rank] = times_combined(rows_N3);
    add_strangers(problem, routing, rank, index_rows(rows_N3), faults);
  }
  const Dim want = problem.cuts_experts() && problem.shards_tokens("tp") ? problem.mesh.size("tp") : 1;
  for (const auto& [token, at] : routing.tokens())
    for (const std::vector<Dim>& ranks : summing_ranks(problem, routing.owners(token)))
      for (Dim slot = 0; routing.is_known(token) && slot < problem.model.top_k; ++slot) {
        const RowKey key{token, slot, routing.expert_of(token, slot)};
        Dim got = 0, last = ranks.front();
        for (const Dim rank : ranks)
          if (const auto found = times[rank].find(key); found != times[rank].end()) {
            got += found->second;
            last = rank;
          }
        if (got < want) missing[ranks.front()].push_back(key);
        if (got > want) repeated[last].push_back(key);
      }
  for (auto& [rank, keys] : missing) add(faults, {kCombined, rank, std::move(keys), "never come back"});
  for (auto& [rank, keys] : repeated) add(faults, {kCombined, rank, std::move(keys), "come back twice"});
  return faults;
}

}  // namespace moecheck::check
