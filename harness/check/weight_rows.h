// The generator's weights row by row, as the bytes that a rank's slice holds; no tensor is ever made whole.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "harness/inputs/generator.h"
#include "harness/model/dims.h"

namespace moecheck::check {

using model::Dim;

// A contiguous range of a row: what a cut along the last dim leaves to a rank.
struct Columns {
  Dim first = 0;
  Dim count = 0;
  bool operator==(const Columns&) const = default;
};

class WeightRows {
 public:
  // tap: one of param/*. Router and attention have one "expert", 0.
  WeightRows(const inputs::Generator& generator, std::string_view tap);

  Dim num_experts() const { return num_experts_; }
  Dim num_rows() const { return num_rows_; }        // of one expert
  Dim num_columns() const { return static_cast<Dim>(row_.size()); }

  // Valid until the next call.
  std::span<const std::byte> bytes(Dim expert, Dim row, Columns columns);

 private:
  const inputs::Generator& generator_;
  std::string_view tap_;
  Dim num_experts_ = 1;
  Dim num_rows_ = 0;
  std::vector<float> row_;
  std::vector<std::byte> bytes_;
};

std::uint64_t hash_of(std::span<const std::byte> bytes);

}  // namespace moecheck::check
