#include "harness/inputs/philox_stream.h"

#include <array>

namespace moecheck::inputs {
namespace {

// sqrt((2^32 - 1) / 3): the standard deviation of the sum of four 16-bit uniforms.
constexpr double kSigma = 37837.22723720648;
constexpr std::int32_t kMean = 131070;
constexpr std::size_t kLanes = 16;

std::int32_t halves(std::uint32_t a, std::uint32_t b) {
  return static_cast<std::int32_t>((a & 0xFFFFU) + (a >> 16) + (b & 0xFFFFU) + (b >> 16)) - kMean;
}

// kLanes blocks at once, in a shape that the compiler turns into vector code; equals philox4x32_10 lane by lane.
__attribute__((optimize("O3"), target_clones("avx2", "default"))) void normal_blocks(
    std::uint64_t first_block, std::uint64_t name_hash, std::uint64_t seed, float* out, double factor) {
  std::uint32_t c0[kLanes], c1[kLanes], c2[kLanes], c3[kLanes];
  for (std::size_t i = 0; i < kLanes; ++i) {
    c0[i] = static_cast<std::uint32_t>(first_block + i);
    c1[i] = static_cast<std::uint32_t>((first_block + i) >> 32);
    c2[i] = static_cast<std::uint32_t>(name_hash);
    c3[i] = static_cast<std::uint32_t>(name_hash >> 32);
  }
  auto k0 = static_cast<std::uint32_t>(seed);
  auto k1 = static_cast<std::uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    for (std::size_t i = 0; i < kLanes; ++i) {
      const std::uint64_t p0 = 0xD2511F53ULL * c0[i];
      const std::uint64_t p1 = 0xCD9E8D57ULL * c2[i];
      const std::uint32_t n0 = static_cast<std::uint32_t>(p1 >> 32) ^ c1[i] ^ k0;
      const std::uint32_t n2 = static_cast<std::uint32_t>(p0 >> 32) ^ c3[i] ^ k1;
      c1[i] = static_cast<std::uint32_t>(p1);
      c3[i] = static_cast<std::uint32_t>(p0);
      c0[i] = n0;
      c2[i] = n2;
    }
    k0 += 0x9E3779B9U;
    k1 += 0xBB67AE85U;
  }
  for (std::size_t i = 0; i < kLanes; ++i) {
    const auto even = static_cast<std::int32_t>((c0[i] & 0xFFFFU) + (c0[i] >> 16) + (c1[i] & 0xFFFFU) + (c1[i] >> 16)) - kMean;
    const auto odd = static_cast<std::int32_t>((c2[i] & 0xFFFFU) + (c2[i] >> 16) + (c3[i] & 0xFFFFU) + (c3[i] >> 16)) - kMean;
    out[2 * i] = static_cast<float>(static_cast<double>(even) * factor);
    out[2 * i + 1] = static_cast<float>(static_cast<double>(odd) * factor);
  }
}

}  // namespace

base::PhiloxCounter Stream::block(std::uint64_t index) const {
  return base::philox4x32_10({static_cast<std::uint32_t>(index), static_cast<std::uint32_t>(index >> 32),
                              static_cast<std::uint32_t>(name_hash), static_cast<std::uint32_t>(name_hash >> 32)},
                             {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)});
}

void fill_normal(const Stream& stream, std::uint64_t first, double scale, std::span<float> out) {
  const double factor = scale / kSigma;
  std::size_t done = 0;
  while (done < out.size()) {
    const std::uint64_t at = first + done;
    if (at % 2 == 0 && out.size() - done >= 2 * kLanes) {
      normal_blocks(at / 2, stream.name_hash, stream.seed, out.data() + done, factor);
      done += 2 * kLanes;
      continue;
    }
    const auto words = stream.block(at / 2);
    const std::int32_t n = at % 2 == 0 ? halves(words[0], words[1]) : halves(words[2], words[3]);
    out[done++] = static_cast<float>(static_cast<double>(n) * factor);
  }
}

}  // namespace moecheck::inputs
