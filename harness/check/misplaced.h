// Which experts of a rank hold something else than what belongs there, and how to say so in a few words.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "harness/check/held_weights.h"

namespace moecheck::check {

struct Misplaced {
  Dim expert = 0;      // who belongs there
  Dim wrong_rows = 0;
  Held held;
};

// Compares one tensor of a rank row by row with what should be there, without a copy of either.
class ExpertScan {
 public:
  // tap: as for HeldWeights. Requires: `problem` outlives this.
  ExpertScan(const model::Problem& problem, std::string_view tap, std::unique_ptr<WeightRows> rows);

  // local: the rank's part of the tensor, in the declared shape and dtype. A tensor of two dims counts as one expert, 0.
  std::vector<Misplaced> misplaced(Dim rank, const base::HostTensor& local);

 private:
  const model::Problem& problem_;
  std::string_view tap_;
  std::unique_ptr<WeightRows> rows_;
  HeldWeights held_;
};

// Neighbours that hold experts at one distance, or have the same thing wrong, are one group: "experts 6..11 hold experts 0..5".
struct MisplacedGroup {
  Dim first = 0;
  Dim wrong_rows = 0;
  std::string message;
};
std::vector<MisplacedGroup> group_misplaced(std::span<const Misplaced> misplaced);

bool same_row(std::span<const std::byte> a, std::span<const std::byte> b);

}  // namespace moecheck::check
