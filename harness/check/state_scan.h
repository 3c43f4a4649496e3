// Compares tensors of a training state, as parts of ranks, with what the whole should be, and says whose values stand where.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "harness/base/host_tensor.h"
#include "harness/check/misplaced.h"

namespace moecheck::check {

struct StateDifference {
  std::string_view tap;
  std::optional<Dim> rank;     // none: said of all ranks together
  std::optional<Dim> expert;   // the first of those that the message is about
  Dim wrong_rows = 0;
  std::string message;         // "experts 4..7 hold experts 0..3"
  std::vector<std::string_view> also;   // other taps with the same difference on the same rank

  std::string also_text() const;   // " (and 3 more tensors: a, b, c)"; empty for none
};

class StateScan {
 public:
  explicit StateScan(const model::Problem& problem) : problem_(problem) {}

  // parts: by rank, as the layout declares them; ranks without one are passed over.
  // tap: one of the table. Requires: `whole` has the tap's global shape.
  void compare(std::string_view tap, const base::HostTensor& whole, const std::vector<const base::HostTensor*>& parts);
  // The same, where a rank without a part is wrong as well.
  void compare_all(std::string_view tap, const base::HostTensor& whole, const std::vector<const base::HostTensor*>& parts);
  // A tensor of a save with what the ranks showed when they saved: whose values stand in the part of the save that is a rank's.
  void compare_saved(std::string_view tap, const base::HostTensor& saved, const std::vector<const base::HostTensor*>& shown);
  void add(StateDifference difference) { differences_.push_back(std::move(difference)); }

  std::int64_t compared() const { return compared_; }   // elements
  bool found_none() const { return differences_.empty(); }
  // Those that several tensors have in common once, under the first of them.
  std::vector<StateDifference> differences() const;

 private:
  std::vector<Misplaced> compare_rows(std::string_view tap, Dim rank, ExpertScan& scan, const base::HostTensor& part);
  void compare_whole(std::string_view tap, Dim rank, const base::HostTensor& whole, const base::HostTensor& part);
  void look_for_lost(std::string_view tap, const std::vector<std::vector<Dim>>& held);

  const model::Problem& problem_;
  std::int64_t compared_ = 0;
  std::vector<StateDifference> differences_;
};

}  // namespace moecheck::check
