// Weights row by row, as the bytes that a rank's slice holds: the generator's, or those of a whole tensor.
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

// Tensors of two dims have one "expert", 0.
class WeightRows {
 public:
  virtual ~WeightRows() = default;

  Dim num_experts() const { return num_experts_; }
  Dim num_rows() const { return num_rows_; }        // of one expert
  Dim num_columns() const { return num_columns_; }

  // Valid until the next call.
  virtual std::span<const std::byte> bytes(Dim expert, Dim row, Columns columns) = 0;

 protected:
  explicit WeightRows(const base::Shape& global);   // of two or three dims

 private:
  Dim num_experts_ = 1;
  Dim num_rows_ = 0;
  Dim num_columns_ = 0;
};

// No tensor is ever made whole.
class GeneratedRows final : public WeightRows {
 public:
  // tap: one of param/*.
  GeneratedRows(const inputs::Generator& generator, std::string_view tap);
  std::span<const std::byte> bytes(Dim expert, Dim row, Columns columns) override;

 private:
  const inputs::Generator& generator_;
  std::string_view tap_;
  std::vector<float> row_;
  std::vector<std::byte> bytes_;
};

class TensorRows final : public WeightRows {
 public:
  explicit TensorRows(base::HostTensor global);
  std::span<const std::byte> bytes(Dim expert, Dim row, Columns columns) override;

 private:
  base::HostTensor global_;
};

std::uint64_t hash_of(std::span<const std::byte> bytes);

}  // namespace moecheck::check
