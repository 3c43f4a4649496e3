#include "harness/base/dtype.h"

#include <bit>
#include <cmath>
#include <limits>

#include <gtest/gtest.h>

namespace moecheck::base {
namespace {

constexpr std::uint32_t kPatterns = 1U << 16;
const float kInfinity = std::numeric_limits<float>::infinity();

struct Half {
  const char* name;
  std::uint16_t (*from_float)(float);
  float (*to_float)(std::uint16_t);
  int fraction_bits;
  int min_exponent;  // of a normal number
  float largest;
};

const Half kHalves[] = {{"bf16", bf16_from_float, float_from_bf16, 7, -126, 0x1.FEp127F},
                        {"fp16", f16_from_float, float_from_f16, 10, -14, 65504.0F}};

class EveryHalf : public testing::TestWithParam<Half> {};
INSTANTIATE_TEST_SUITE_P(DType, EveryHalf, testing::ValuesIn(kHalves), [](const auto& half) { return std::string(half.param.name); });

// What the bits mean, by the definition of an IEEE format.
double meaning(const Half& half, std::uint32_t bits) {
  const int exponent_bits = 15 - half.fraction_bits;
  const double sign = (bits >> 15) != 0 ? -1 : 1;
  const int exponent = static_cast<int>(bits >> half.fraction_bits) & ((1 << exponent_bits) - 1);
  const int fraction = static_cast<int>(bits) & ((1 << half.fraction_bits) - 1);
  if (exponent == (1 << exponent_bits) - 1) return fraction != 0 ? std::nan("") : sign * HUGE_VAL;
  if (exponent == 0) return sign * std::ldexp(fraction, half.min_exponent - half.fraction_bits);
  return sign * std::ldexp((1 << half.fraction_bits) + fraction, half.min_exponent + exponent - 1 - half.fraction_bits);
}

TEST_P(EveryHalf, AllPatternsMeanWhatTheFormatSays) {
  for (std::uint32_t bits = 0; bits < kPatterns; ++bits) {
    const double expected = meaning(GetParam(), bits);
    const auto got = static_cast<double>(GetParam().to_float(static_cast<std::uint16_t>(bits)));
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(got)) << bits;
    } else {
      ASSERT_EQ(got, expected) << bits;
      ASSERT_EQ(std::signbit(got), std::signbit(expected)) << bits;
    }
  }
}

TEST_P(EveryHalf, AllPatternsSurviveTheWayThereAndBack) {
  for (std::uint32_t bits = 0; bits < kPatterns; ++bits) {
    const float value = GetParam().to_float(static_cast<std::uint16_t>(bits));
    if (std::isnan(value)) {
      ASSERT_TRUE(std::isnan(GetParam().to_float(GetParam().from_float(value)))) << bits;
    } else {
      ASSERT_EQ(GetParam().from_float(value), bits);
    }
  }
}

TEST_P(EveryHalf, ValuesBetweenNeighboursRoundToTheNearerAndTiesToTheEvenOne) {
  for (std::uint32_t bits = 0; bits < kPatterns; ++bits) {
    const double low = meaning(GetParam(), bits);
    const double high = meaning(GetParam(), bits + 1);
    if (!std::isfinite(low) || !std::isfinite(high) || (bits & 0x7FFFU) == 0x7FFFU) continue;
    const auto tie = static_cast<float>((low + high) / 2);
    const auto lower = static_cast<std::uint16_t>(bits);
    const auto upper = static_cast<std::uint16_t>(bits + 1);
    // The smallest bf16 subnormal has a half that fp32 still holds; all ties are exact.
    ASSERT_EQ(static_cast<double>(tie), (low + high) / 2);
    ASSERT_EQ(GetParam().from_float(tie), bits % 2 == 0 ? lower : upper) << bits;
    ASSERT_EQ(GetParam().from_float(std::nextafter(tie, static_cast<float>(low))), lower) << bits;
    ASSERT_EQ(GetParam().from_float(std::nextafter(tie, static_cast<float>(high))), upper) << bits;
  }
}

TEST_P(EveryHalf, OverflowBecomesInfinityFromTheTieOnwards) {
  const Half& half = GetParam();
  const float unit = std::ldexp(1.0F, std::ilogb(half.largest) - half.fraction_bits);
  const float tie = half.largest + unit / 2;
  EXPECT_EQ(half.to_float(half.from_float(std::nextafter(tie, 0.0F))), half.largest);
  EXPECT_EQ(half.to_float(half.from_float(tie)), kInfinity);
  EXPECT_EQ(half.to_float(half.from_float(-tie)), -kInfinity);
  EXPECT_EQ(half.to_float(half.from_float(kInfinity)), kInfinity);
  EXPECT_EQ(half.to_float(half.from_float(std::numeric_limits<float>::max())), kInfinity);
}

TEST_P(EveryHalf, NanStaysNanWhateverItsPayload) {
  for (const std::uint32_t bits : {0x7F800001U, 0x7FC00000U, 0x7FFFFFFFU, 0xFF800001U, 0xFFFFFFFFU}) {
    EXPECT_TRUE(std::isnan(GetParam().to_float(GetParam().from_float(std::bit_cast<float>(bits))))) << bits;
  }
}

TEST_P(EveryHalf, KeepsTheSignOfZeroAndOfWhatUnderflows) {
  EXPECT_EQ(GetParam().from_float(0.0F), 0);
  EXPECT_EQ(GetParam().from_float(-0.0F), 0x8000);
  const float tiny = std::ldexp(1.0F, std::max(GetParam().min_exponent - GetParam().fraction_bits - 2, -149));
  EXPECT_EQ(GetParam().from_float(tiny), 0);
  EXPECT_EQ(GetParam().from_float(-tiny), 0x8000);
}

TEST(RoundTo, RoundsOnceToEachDtype) {
  EXPECT_EQ(round_to(DType::kF64, 0.1), 0.1);
  EXPECT_EQ(round_to(DType::kF32, 0.1), static_cast<double>(0.1F));
  EXPECT_EQ(round_to(DType::kBF16, 1.0 + 0x1p-8), 1.0);           // a tie: down to even
  EXPECT_EQ(round_to(DType::kBF16, 1.0 + 3 * 0x1p-8), 1.0 + 0x1p-6);  // a tie: up to even
  EXPECT_EQ(round_to(DType::kF16, 1.0 + 0x1p-11), 1.0);
  EXPECT_EQ(round_to(DType::kF16, 70000), HUGE_VAL);
  EXPECT_EQ(round_to(DType::kI64, 2.5), 2.0);
  EXPECT_TRUE(std::isnan(round_to(DType::kBF16, std::nan(""))));
}

TEST(UnitRoundoff, IsHalfTheGapAboveOne) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    const double u = unit_roundoff(dtype);
    EXPECT_EQ(round_to(dtype, 1 + 2 * u), 1 + 2 * u) << knob_name(dtype);
    EXPECT_EQ(round_to(dtype, 1 + u), 1.0) << knob_name(dtype);
    EXPECT_GT(round_to(dtype, 1 + u * 1.01), 1.0) << knob_name(dtype);
  }
}

TEST(UnderflowUnit, IsHalfOfTheSmallestSubnormal) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    const double half = underflow_unit(dtype);
    EXPECT_EQ(round_to(dtype, 2 * half), 2 * half) << knob_name(dtype);
    EXPECT_EQ(round_to(dtype, half), 0.0) << knob_name(dtype);
  }
}

TEST(DType, NamesReadBackAndUnknownOnesAreRefused) {
  for (const DType dtype : {DType::kF32, DType::kF64, DType::kBF16, DType::kF16, DType::kI64, DType::kI32, DType::kU8, DType::kBool}) {
    EXPECT_EQ(dtype_from_safetensors(safetensors_name(dtype)), dtype);
    EXPECT_EQ(dtype_from_knob(knob_name(dtype)), dtype);
  }
  EXPECT_EQ(dtype_from_safetensors("f32"), std::nullopt);
  EXPECT_EQ(dtype_from_safetensors(""), std::nullopt);
  EXPECT_EQ(dtype_from_knob("float"), std::nullopt);
}

}  // namespace
}  // namespace moecheck::base
