#include "harness/check/nonfinite_scan.h"

#include <algorithm>
#include <cstring>
#include <optional>

namespace moecheck::check {
namespace {

// The exponent bits of each lane of a word, and the lowest of them: adding it to a full exponent carries into the sign bit.
struct Lanes {
  std::uint64_t exponent;
  std::uint64_t lowest;
  std::uint64_t sign;
};

std::optional<Lanes> lanes_of(base::DType dtype) {
  switch (dtype) {
    case base::DType::kF32: return Lanes{0x7F8000007F800000U, 0x0080000000800000U, 0x8000000080000000U};
    case base::DType::kF64: return Lanes{0x7FF0000000000000U, 0x0010000000000000U, 0x8000000000000000U};
    case base::DType::kBF16: return Lanes{0x7F807F807F807F80U, 0x0080008000800080U, 0x8000800080008000U};
    case base::DType::kF16: return Lanes{0x7C007C007C007C00U, 0x0400040004000400U, 0x8000800080008000U};
    default: return std::nullopt;
  }
}

}  // namespace

// A word at a time: a layer has 10^9 elements.
bool has_nonfinite(const base::HostTensor& tensor) {
  const auto lanes = lanes_of(tensor.dtype());
  if (!lanes) return false;
  const auto bytes = tensor.bytes();
  std::uint64_t carries = 0;
  for (std::size_t at = 0; at < bytes.size(); at += sizeof(std::uint64_t)) {
    std::uint64_t word = 0;
    std::memcpy(&word, bytes.data() + at, std::min(sizeof word, bytes.size() - at));
    carries |= (word & lanes->exponent) + lanes->lowest;
  }
  return (carries & lanes->sign) != 0;
}

}  // namespace moecheck::check
