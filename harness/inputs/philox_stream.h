// Named streams of random numbers over Philox.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "harness/base/philox.h"

namespace moecheck::inputs {

struct Stream {
  std::uint64_t seed = 0;
  std::uint64_t name_hash = 0;

  Stream(std::uint64_t seed_value, std::string_view name) : seed(seed_value), name_hash(base::fnv1a(name.data(), name.size())) {}

  base::PhiloxCounter block(std::uint64_t index) const;

  // 32 uniform bits at `index`: word index % 4 of block index / 4.
  std::uint32_t bits(std::uint64_t index) const { return block(index / 4)[index % 4]; }
};

// out[i] = element first + i of the nearly normal stream, times scale; not yet rounded to a dtype below fp32.
void fill_normal(const Stream& stream, std::uint64_t first, double scale, std::span<float> out);

}  // namespace moecheck::inputs
