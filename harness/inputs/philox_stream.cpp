#include "harness/inputs/philox_stream.h"

#include <algorithm>
#include <array>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace moecheck::inputs {
namespace {

// sqrt((2^32 - 1) / 3): the standard deviation of the sum of four 16-bit uniforms.
constexpr double kSigma = 37837.22723720648;
constexpr std::int32_t kMean = 131070;
constexpr std::size_t kLanes = 16;
constexpr std::size_t kElements = 2 * kLanes;

std::int32_t centred(std::uint32_t a, std::uint32_t b) {
  return static_cast<std::int32_t>((a & 0xFFFFU) + (a >> 16) + (b & 0xFFFFU) + (b >> 16)) - kMean;
}

void normal_blocks_portable(const Stream& stream, std::uint64_t first_block, double factor, float* out) {
  for (std::size_t i = 0; i < kLanes; ++i) {
    const auto words = stream.block(first_block + i);
    out[2 * i] = static_cast<float>(static_cast<double>(centred(words[0], words[1])) * factor);
    out[2 * i + 1] = static_cast<float>(static_cast<double>(centred(words[2], words[3])) * factor);
  }
}

#if defined(__x86_64__)

constexpr std::size_t kGroups = kLanes / 4;  // four blocks to a register, one in each 64-bit lane

// Only the low half of a 64-bit lane counts; what is left in the high half never reaches the multiplier or the result.
struct Words {
  __m256i w[4][kGroups];
};

__attribute__((target("avx2"), optimize("O3"))) void ten_rounds(Words& c, std::uint64_t seed) {
  const __m256i mul0 = _mm256_set1_epi64x(0xD2511F53LL);
  const __m256i mul1 = _mm256_set1_epi64x(0xCD9E8D57LL);
  auto k0 = static_cast<std::uint32_t>(seed);
  auto k1 = static_cast<std::uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round, k0 += 0x9E3779B9U, k1 += 0xBB67AE85U) {
    const __m256i key0 = _mm256_set1_epi64x(k0);
    const __m256i key1 = _mm256_set1_epi64x(k1);
    for (std::size_t g = 0; g < kGroups; ++g) {
      const __m256i p0 = _mm256_mul_epu32(c.w[0][g], mul0);
      const __m256i p1 = _mm256_mul_epu32(c.w[2][g], mul1);
      c.w[0][g] = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p1, 32), c.w[1][g]), key0);
      c.w[1][g] = p1;
      c.w[2][g] = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p0, 32), c.w[3][g]), key1);
      c.w[3][g] = p0;
    }
  }
}

// The sum of the four 16-bit halves of the low words of a and b.
__attribute__((target("avx2"))) __m256i sum_of_halves(__m256i a, __m256i b) {
  const __m256i low16 = _mm256_set1_epi64x(0xFFFF);
  const __m256i of_a = _mm256_add_epi64(_mm256_and_si256(a, low16), _mm256_and_si256(_mm256_srli_epi64(a, 16), low16));
  const __m256i of_b = _mm256_add_epi64(_mm256_and_si256(b, low16), _mm256_and_si256(_mm256_srli_epi64(b, 16), low16));
  return _mm256_add_epi64(of_a, of_b);
}

// The same values as normal_blocks_portable, bit for bit: there is no rounding before the last product.
__attribute__((target("avx2"), optimize("O3"))) void normal_blocks_avx2(const Stream& stream, std::uint64_t first_block, double factor,
                                                                        float* out) {
  Words c;
  for (std::size_t g = 0; g < kGroups; ++g) {
    const auto first_of_group = static_cast<long long>(first_block + 4 * g);
    const __m256i block = _mm256_add_epi64(_mm256_set1_epi64x(first_of_group), _mm256_set_epi64x(3, 2, 1, 0));
    c.w[0][g] = block;
    c.w[1][g] = _mm256_srli_epi64(block, 32);
    c.w[2][g] = _mm256_set1_epi64x(static_cast<long long>(stream.name_hash & 0xFFFFFFFFU));
    c.w[3][g] = _mm256_set1_epi64x(static_cast<long long>(stream.name_hash >> 32));
  }
  ten_rounds(c, stream.seed);
  const __m256d scale = _mm256_set1_pd(factor);
  for (std::size_t g = 0; g < kGroups; ++g) {
    const __m256i even = sum_of_halves(c.w[0][g], c.w[1][g]);
    const __m256i odd = sum_of_halves(c.w[2][g], c.w[3][g]);
    const __m256i both = _mm256_sub_epi32(_mm256_or_si256(even, _mm256_slli_epi64(odd, 32)), _mm256_set1_epi32(kMean));
    const __m256d first = _mm256_cvtepi32_pd(_mm256_castsi256_si128(both));
    const __m256d second = _mm256_cvtepi32_pd(_mm256_extracti128_si256(both, 1));
    _mm_storeu_ps(out + 8 * g, _mm256_cvtpd_ps(_mm256_mul_pd(first, scale)));
    _mm_storeu_ps(out + 8 * g + 4, _mm256_cvtpd_ps(_mm256_mul_pd(second, scale)));
  }
}

#endif

// kLanes blocks, 2 * kLanes elements.
void normal_blocks(const Stream& stream, std::uint64_t first_block, double factor, float* out) {
#if defined(__x86_64__)
  static const bool has_avx2 = __builtin_cpu_supports("avx2") != 0;
  if (has_avx2) return normal_blocks_avx2(stream, first_block, factor, out);
#endif
  normal_blocks_portable(stream, first_block, factor, out);
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
    if (at % 2 == 0 && out.size() - done >= kElements) {
      normal_blocks(stream, at / 2, factor, out.data() + done);
      done += kElements;
      continue;
    }
    // A slice that begins in the middle of a block or is shorter than the lanes: make them all, take what is wanted.
    std::array<float, kElements> all;
    normal_blocks(stream, at / 2, factor, all.data());
    const std::size_t skip = at % 2;
    const std::size_t count = std::min(kElements - skip, out.size() - done);
    std::copy_n(all.begin() + static_cast<std::ptrdiff_t>(skip), count, out.begin() + static_cast<std::ptrdiff_t>(done));
    done += count;
  }
}

}  // namespace moecheck::inputs
