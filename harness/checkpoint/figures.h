// How far two tensors of one shape are apart.
#pragma once

#include <cstdint>
#include <optional>

#include "harness/base/host_tensor.h"

namespace moecheck::checkpoint {

// When two elements count as equal. NaN equals NaN; 0 equals -0 unless bits are compared.
struct Equality {
  double rtol = 0;           // |a - b| <= rtol |a|
  bool is_bitwise = false;   // the same bytes; rtol is not read
};

struct Figures {
  std::int64_t elements = 0;
  std::int64_t different = 0;
  std::int64_t first_different = -1;      // flat index
  double max_abs = 0;                     // largest |a - b|; NaN if only one of two elements is
  double relative_l2 = 0;                 // |a - b| over |a|, both as one vector; infinity over a zero one
  // Largest distance in representable numbers; floats of one dtype only, pairs with a NaN left out.
  std::optional<std::uint64_t> max_ulp = {};
};

// Other dtypes are compared by value, also where `is_bitwise`.
// Requires: same shape.
Figures compare(const base::HostTensor& a, const base::HostTensor& b, const Equality& equality);

}  // namespace moecheck::checkpoint
