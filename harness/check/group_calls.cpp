#include "harness/check/group_calls.h"

#include <algorithm>
#include <set>

#include <fmt/format.h>

#include "harness/check/readable.h"

namespace moecheck::check {
namespace {

using trace::Collective;

bool is_same_call(const Collective& a, const Collective& b) { return a.kind == b.kind && a.site == b.site; }

std::string splits_misfit(const GroupCalls& group, std::size_t i, std::size_t j, std::size_t at) {
  const std::size_t n = group.ranks.size();
  for (const std::size_t member : {i, j})
    for (const auto* splits : {&group.sent[member][at].send_splits, &group.sent[member][at].recv_splits})
      if (splits->size() != n) return fmt::format("rank {} has {} splits for {} ranks", group.ranks[member], splits->size(), n);
  for (const auto& [from, to] : {std::pair(i, j), std::pair(j, i)}) {
    const auto sends = group.sent[from][at].send_splits[to], takes = group.sent[to][at].recv_splits[from];
    if (sends != takes) return fmt::format("rank {} sends {} rows to rank {}, which takes {}", group.ranks[from], sends, group.ranks[to], takes);
  }
  return "";
}

// Members i and j of a group do not fit into one collective; empty if they do.
std::string misfit_of(const GroupCalls& group, std::size_t i, std::size_t j, std::size_t at) {
  const Collective &a = group.sent[i][at], &b = group.sent[j][at];
  if (!is_same_call(a, b)) return "different collectives";
  if (a.reduce_op != b.reduce_op) return "different operations";
  if (a.dtype != b.dtype) return "different dtypes";
  if (trace::has_one_count(a.kind) && a.count != b.count) return "different counts";
  if (a.sequence != b.sequence) return "different sequence numbers";
  return a.kind == "all_to_all" ? splits_misfit(group, i, j, at) : "";
}

}  // namespace

std::string words(const Collective& c) {
  return fmt::format("{} over {} ({}{}{}, {} elements, sequence {}, at {})", c.kind, c.group, c.reduce_op, c.reduce_op.empty() ? "" : ", ", c.dtype,
                     c.count, c.sequence, c.site.empty() ? "an unnamed site" : c.site);
}

std::vector<GroupCalls> groups_of(const CheckInput& input) {
  std::set<std::string> names;
  for (const trace::RankTrace& rank : input.observed.ranks)
    for (const Collective& c : rank.comm) names.insert(c.group);
  std::vector<GroupCalls> groups;
  for (const std::string& dims : names)
    for (Dim rank = 0; rank < input.one.world_size(); ++rank) {
      GroupCalls group{dims, input.one.problem.mesh.group(rank, dims), {}};
      if (group.ranks.size() < 2 || std::ranges::min(group.ranks) != rank) continue;
      for (const Dim member : group.ranks) {
        std::vector<Collective>& sent = group.sent.emplace_back();
        if (rank_trace(input, member) == nullptr) continue;
        std::ranges::copy_if(rank_trace(input, member)->comm, std::back_inserter(sent), [&](const Collective& c) { return c.group == dims; });
      }
      groups.push_back(std::move(group));
    }
  return groups;
}

std::optional<Disagreement> first_disagreement(const GroupCalls& group, std::size_t leader, std::size_t member, bool was_cut) {
  const auto &a = group.sent[leader], &b = group.sent[member];
  const Dim rank = group.ranks[member], other = group.ranks[leader];
  const std::size_t common = std::min(a.size(), b.size());
  const bool is_number_wrong = a.size() != b.size() && !was_cut;
  for (std::size_t at = 0; at < common; ++at) {
    // One rank has a collective more: what follows is shifted, and not what is wrong.
    if (is_number_wrong && !is_same_call(a[at], b[at])) break;
    if (const std::string misfit = misfit_of(group, leader, member, at); !misfit.empty())
      return Disagreement{rank, b[at].site, fmt::format("{}: rank {} {}, rank {} {}", misfit, rank, words(b[at]), other, words(a[at]))};
  }
  if (!is_number_wrong) return std::nullopt;
  std::size_t at = 0;
  while (at < common && is_same_call(a[at], b[at])) ++at;
  const bool has_member_more = b.size() > a.size();
  const Collective& extra = has_member_more ? b[at] : a[at];
  return Disagreement{rank, extra.site,
                      fmt::format("rank {} sent {} collectives over {}, rank {} {}: only rank {} sent {}", rank, b.size(), group.dims, other,
                                  a.size(), has_member_more ? rank : other, words(extra))};
}

std::optional<Disagreement> first_gap(const GroupCalls& group, std::size_t member) {
  const auto& sent = group.sent[member];
  for (std::size_t at = 1; at < sent.size(); ++at)
    if (sent[at].sequence != sent[at - 1].sequence + 1)
      return Disagreement{group.ranks[member], sent[at].site,
                          fmt::format("sequence {} follows {} over {}: a collective is not in the log, or twice", sent[at].sequence,
                                      sent[at - 1].sequence, group.dims)};
  return std::nullopt;
}

}  // namespace moecheck::check
