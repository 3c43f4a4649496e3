#include "harness/launch/collective_ledger.h"

#include <algorithm>

namespace moecheck::launch {
namespace {

using model::Dim;
using trace::Collective;

constexpr std::string_view kAllToAll = "all_to_all";
// A rank runs ahead of its group only in collectives that do not wait (a broadcast's root, an asynchronous one).
constexpr std::size_t kMaxOpen = 4096;

// A rank that does not say how it splits is not held to it.
bool do_splits_agree(const std::vector<std::int64_t>& sent, std::size_t to, const std::vector<std::int64_t>& received, std::size_t from) {
  return to >= sent.size() || from >= received.size() || sent[to] == received[from];
}

std::size_t place_of(const std::vector<Dim>& ranks, Dim rank) { return static_cast<std::size_t>(std::ranges::find(ranks, rank) - ranks.begin()); }

bool do_agree(const std::vector<Dim>& ranks, Dim rank, const Collective& mine, Dim other_rank, const Collective& other) {
  if (mine.kind != other.kind || mine.dtype != other.dtype || mine.reduce_op != other.reduce_op) return false;
  if (trace::has_one_count(mine.kind) && mine.count != other.count) return false;
  if (mine.kind != kAllToAll) return true;
  const std::size_t me = place_of(ranks, rank);
  const std::size_t them = place_of(ranks, other_rank);
  return do_splits_agree(mine.send_splits, them, other.recv_splits, me) && do_splits_agree(other.send_splits, me, mine.recv_splits, them);
}

}  // namespace

CollectiveLedger::Group& CollectiveLedger::group_of(Dim rank, const std::string& name) {
  if (const auto known = index_.find({name, rank}); known != index_.end()) return groups_[known->second];
  groups_.push_back({mesh_.group(rank, name), {}});
  for (const Dim member : groups_.back().ranks) index_[{name, member}] = groups_.size() - 1;
  return groups_.back();
}

std::optional<CollectiveMismatch> CollectiveLedger::enter(Dim rank, const Collective& entered) {
  if (entered.sequence <= 0) return std::nullopt;
  Group& group = group_of(rank, entered.group);
  if (group.ranks.size() < 2) return std::nullopt;
  last_[{entered.group, rank}] = entered.sequence;
  Call& call = group.open[entered.sequence];
  for (const Entry& earlier : call.entries)
    if (earlier.rank != rank && !do_agree(group.ranks, rank, entered, earlier.rank, earlier.what))
      return CollectiveMismatch{rank, earlier.rank, entered, earlier.what};
  if (call.entries.empty() || entered.kind == kAllToAll) call.entries.push_back({rank, entered});
  if (++call.num_entered >= group.ranks.size()) group.open.erase(entered.sequence);
  if (group.open.size() > kMaxOpen) group.open.erase(group.open.begin());
  return std::nullopt;
}

}  // namespace moecheck::launch
