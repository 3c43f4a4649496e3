#include "harness/cli/filter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace moecheck::cli {
namespace {

constexpr std::string_view kText = "impl=ep_allreduce model=mixtral mesh=ep=2 dtype=bf16 cases/ep/meshes smoke";

bool matches(std::string_view expression) { return Filter::parse(expression).value().matches(kText); }

TEST(Filter, MatchesAWordAnywhereInTheText) {
  EXPECT_TRUE(matches("mixtral"));
  EXPECT_TRUE(matches("mesh=ep=2"));
  EXPECT_TRUE(matches("cases/ep"));
  EXPECT_FALSE(matches("qwen3"));
}

TEST(Filter, JoinsWordsByAndOrAndNot) {
  EXPECT_TRUE(matches("mixtral and bf16"));
  EXPECT_FALSE(matches("mixtral and fp32"));
  EXPECT_TRUE(matches("fp32 or bf16"));
  EXPECT_TRUE(matches("not fp32"));
  EXPECT_FALSE(matches("not not fp32"));
}

TEST(Filter, BindsNotBeforeAndBeforeOr) {
  EXPECT_TRUE(matches("bf16 or fp32 and qwen3"));
  EXPECT_FALSE(matches("(bf16 or fp32) and qwen3"));
  EXPECT_TRUE(matches("not qwen3 and bf16"));
  EXPECT_FALSE(matches("not (mixtral or qwen3)"));
}

TEST(Filter, DoesNotTakeAWordThatBeginsLikeAnOperatorForOne) {
  EXPECT_TRUE(Filter::parse("android or bf16").value().matches(kText));
  EXPECT_FALSE(matches("orange"));
}

TEST(Filter, RefusesWhatIsNoExpressionAndSaysWhere) {
  for (const std::string_view bad : {"", " ", "and", "a and", "a b", "(a", "a)", "()", "not", "or a", "a and or b", "(a or b"}) {
    const auto filter = Filter::parse(bad);
    ASSERT_FALSE(filter) << "'" << bad << "'";
    EXPECT_EQ(filter.error().code, base::ErrorCode::kUsage);
    EXPECT_EQ(filter.error().where, "-k");
  }
  EXPECT_THAT(Filter::parse("a b").error().message, testing::HasSubstr("word 2"));
}

}  // namespace
}  // namespace moecheck::cli
