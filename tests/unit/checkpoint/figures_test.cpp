#include "harness/checkpoint/figures.h"

#include <cmath>
#include <limits>

#include <gtest/gtest.h>

namespace moecheck::checkpoint {
namespace {

using base::DType;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

base::HostTensor of(DType dtype, std::vector<double> values) {
  return base::tensor_from_doubles(dtype, {static_cast<std::int64_t>(values.size())}, values);
}

TEST(Figures, SayHowFarHowManyAndWhere) {
  const Figures figures = compare(of(DType::kF32, {3, 4, 0}), of(DType::kF32, {3, 4.5, -1}), {});
  EXPECT_EQ(figures.elements, 3);
  EXPECT_EQ(figures.different, 2);
  EXPECT_EQ(figures.first_different, 1);
  EXPECT_EQ(figures.max_abs, 1);
  EXPECT_DOUBLE_EQ(figures.relative_l2, std::sqrt(1.25) / 5);
}

TEST(Figures, CountRepresentableNumbersBetweenFloats) {
  EXPECT_EQ(compare(of(DType::kBF16, {1}), of(DType::kBF16, {1 + 0x1p-7}), {}).max_ulp, 1U);
  EXPECT_EQ(compare(of(DType::kF32, {1}), of(DType::kF32, {1 - 0x1p-24}), {}).max_ulp, 1U) << "the next one below has half the distance";
  EXPECT_EQ(compare(of(DType::kF32, {-0x1p-149}), of(DType::kF32, {0x1p-149}), {}).max_ulp, 2U) << "across zero";
  EXPECT_EQ(compare(of(DType::kF64, {-kInf}), of(DType::kF64, {kInf}), {}).max_ulp, 2 * 0x7FF0000000000000ULL);
}

TEST(Figures, HaveNoUlpForIntegersOrTwoDTypes) {
  EXPECT_FALSE(compare(of(DType::kI64, {1}), of(DType::kI64, {2}), {}).max_ulp);
  EXPECT_FALSE(compare(of(DType::kF32, {1}), of(DType::kBF16, {2}), {}).max_ulp);
}

TEST(Figures, CompareTwoDTypesByValue) {
  EXPECT_EQ(compare(of(DType::kF32, {1, 2}), of(DType::kBF16, {1, 2}), {0, true}).different, 0);
  EXPECT_EQ(compare(of(DType::kF32, {1, 2.001}), of(DType::kBF16, {1, 2}), {}).different, 1);
}

TEST(Figures, TakeNanForDifferentUnlessBothAre) {
  EXPECT_EQ(compare(of(DType::kF32, {kNan, 1}), of(DType::kF32, {kNan, 1}), {}).different, 0);
  const Figures figures = compare(of(DType::kF32, {kNan, 1}), of(DType::kF32, {0, 9}), {0.5, false});
  EXPECT_EQ(figures.different, 2);
  EXPECT_TRUE(std::isnan(figures.max_abs)) << "the larger error behind it does not hide it";
}

TEST(Figures, TakeAnInfinityForDifferentAtAnyTolerance) {
  EXPECT_EQ(compare(of(DType::kF32, {kInf}), of(DType::kF32, {5}), {0.5, false}).different, 1);
  EXPECT_EQ(compare(of(DType::kF32, {kInf}), of(DType::kF32, {kInf}), {}).max_abs, 0);
}

TEST(Figures, CountOnlyWhatExceedsTheTolerance) {
  const Figures figures = compare(of(DType::kF64, {100, 100, 0}), of(DType::kF64, {101, 102, 0.001}), {0.01, false});
  EXPECT_EQ(figures.different, 2);
  EXPECT_EQ(figures.first_different, 1);
  EXPECT_EQ(figures.max_abs, 2) << "figures are of all elements";
}

TEST(Figures, TellZerosApartOnlyByTheirBits) {
  EXPECT_EQ(compare(of(DType::kF32, {0.0}), of(DType::kF32, {-0.0}), {}).different, 0);
  EXPECT_EQ(compare(of(DType::kF32, {0.0}), of(DType::kF32, {-0.0}), {0, true}).different, 1);
}

TEST(Figures, TellLargeIntegersApartThatAreOneAsDoubles) {
  const std::int64_t a = (std::int64_t{1} << 53) + 1;
  const std::int64_t b = a - 1;
  EXPECT_EQ(compare(base::tensor_from_ints({1}, {&a, 1}), base::tensor_from_ints({1}, {&b, 1}), {}).different, 1);
}

}  // namespace
}  // namespace moecheck::checkpoint
