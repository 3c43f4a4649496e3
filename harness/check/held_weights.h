// Whose weights stand where others belong: rows are recognised by their bytes among all that there are.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include "harness/base/host_tensor.h"
#include "harness/trace/layout.h"
#include "harness/check/weight_rows.h"

namespace moecheck::check {

// What an expert's place holds instead.
struct Held {
  Dim expert = -1;      // a whole other expert; -1: not a whole one
  std::string detail;   // "" for a plain whole expert; else a clause: "as tp rank 1 slices it", "up rows 0..9 hold gate rows 10..19"
  bool operator==(const Held&) const = default;
};

// Hashes of all rows of all experts, restricted to some columns. Costs one pass over all weights: made on the first mismatch only.
class RowHashes {
 public:
  RowHashes(WeightRows& rows, Columns columns);

  struct Place {
    Dim expert = 0;
    Dim row = 0;
  };
  std::uint64_t at(Dim expert, Dim row) const { return hashes_[static_cast<std::size_t>(expert * num_rows_ + row)]; }
  // Places with this hash, in order; empty if nobody's.
  const std::vector<Place>& places(std::uint64_t hash) const;

 private:
  Dim num_rows_;
  std::vector<std::uint64_t> hashes_;
  std::unordered_map<std::uint64_t, std::vector<Place>> places_;
};

// The part of each expert of a tensor that one rank holds; of a tensor of two dims, its part of the whole.
struct ExpertPart {
  std::vector<Dim> rows;  // global row indices, local order
  Columns columns;
};
ExpertPart part_of_rank(const model::Problem& problem, std::string_view tap, Dim rank);

// Rows of a rank's tensor, counted over all leading dims.
struct LocalRows {
  const base::HostTensor& tensor;
  Dim first = 0;
  Dim count = 0;

  std::span<const std::byte> bytes(Dim row) const;
  bool are_blank(Dim from, Dim to) const;   // nothing but NaN: memory that nobody wrote
};

// Bytes of row `row`, counted over all leading dims.
std::span<const std::byte> row_of_tensor(const base::HostTensor& tensor, Dim row);

class HeldWeights {
 public:
  // tap: a parameter's, or of optimizer state that lies as one. Requires: `problem` and `rows` outlive this.
  HeldWeights(const model::Problem& problem, std::string_view tap, WeightRows& rows);

  // What stands at one expert's place on `rank`; expert: who belongs there.
  Held identify(Dim rank, Dim expert, const LocalRows& local);

 private:
  const RowHashes& hashes(Columns columns);
  Held identify_rows(const ExpertPart& part, Dim expert, const LocalRows& local);
  std::string row_name(Dim first, Dim last) const;

  const model::Problem& problem_;
  std::string_view tap_;
  WeightRows& rows_;
  std::map<Dim, RowHashes> by_first_column_;
};

// "expert 3" or "experts 3..5"; "row 3" or "rows 3..5".
std::string range_text(std::string_view noun, Dim first, Dim last);

}  // namespace moecheck::check
