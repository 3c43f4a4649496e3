// Which collectives the ranks of one case have entered, and whether those of a group agree.
#pragma once

#include <deque>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "harness/model/mesh.h"
#include "harness/trace/comm_log.h"

namespace moecheck::launch {

using trace::CollectiveMismatch;

// Collectives of a process group are told apart by their sequence number. Kind, dtype and operation must agree; the count for
// all_reduce, broadcast and reduce_scatter; for all_to_all what one sends to the other and what that one receives from it.
// Remembers a collective until the whole group has entered it, and some thousands of others a group. Cost: constant a call, but
// the group's size for all_to_all.
class CollectiveLedger {
 public:
  explicit CollectiveLedger(model::Mesh mesh) : mesh_(std::move(mesh)) {}

  // What the new one disagrees with. A collective without a number, or over a group that the mesh does not have, agrees.
  std::optional<CollectiveMismatch> enter(model::Dim rank, const trace::Collective& entered);

  // A rank of the group that has not entered it, of those for which is_done(rank); they will not come.
  template <typename IsDone>
  std::optional<CollectiveMismatch> abandoned(model::Dim rank, const trace::Collective& entered, IsDone is_done) {
    if (entered.sequence <= 0) return std::nullopt;
    for (const model::Dim other : group_of(rank, entered.group).ranks)
      if (other != rank && is_done(other) && last_[{entered.group, other}] < entered.sequence)
        return CollectiveMismatch{other, rank, {.site = entered.site}, entered};
    return std::nullopt;
  }

 private:
  struct Entry {
    model::Dim rank = 0;
    trace::Collective what;
  };
  struct Call {
    std::vector<Entry> entries;      // of an all_to_all all, else the first
    std::size_t num_entered = 0;
  };
  struct Group {
    std::vector<model::Dim> ranks;   // by coordinate
    std::map<std::int64_t, Call> open;   // by sequence number
  };

  Group& group_of(model::Dim rank, const std::string& name);

  model::Mesh mesh_;
  std::map<std::pair<std::string, model::Dim>, std::size_t> index_;   // by name and rank
  std::deque<Group> groups_;
  std::map<std::pair<std::string, model::Dim>, std::int64_t> last_;   // number of the last one that a rank entered
};

}  // namespace moecheck::launch
