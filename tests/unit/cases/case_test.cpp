#include "harness/cases/case.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/cases/family.h"

namespace moecheck::cases {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST(MakeCase, TakesTheFamilysSizesAndTheDefaults) {
  const Case one = make_case(with({}), small_family()).value();
  EXPECT_EQ(one.problem.model.num_experts, 12);
  EXPECT_EQ(one.problem.model.top_k, 3);
  EXPECT_TRUE(one.problem.model.renormalise);
  EXPECT_EQ(one.problem.mesh.text(), "none");
  EXPECT_EQ(one.experts_backend, "eager");
  EXPECT_EQ(one.problem.seed, 1U);
  EXPECT_THAT(one.problem.tokens_per_rank, ElementsAre(7));
  EXPECT_THAT(one.phases, ElementsAre("load", "forward"));
  EXPECT_THAT(one.checks, ElementsAre("all"));
  EXPECT_EQ(one.fault, "");
}

TEST(MakeCase, AKnobOverridesTheFamily) {
  const Case one = make_case(with({{"experts", "8"}, {"top_k", "2"}, {"softmax", "after_topk"}, {"renormalise", "false"}}), small_family()).value();
  EXPECT_EQ(one.problem.model.num_experts, 8);
  EXPECT_EQ(one.problem.model.top_k, 2);
  EXPECT_EQ(one.problem.model.softmax, model::SoftmaxOrder::kAfterTopk);
  EXPECT_FALSE(one.problem.model.renormalise);
  EXPECT_EQ(one.problem.model.d_ff, 96);
}

struct Refused {
  KnobValues knobs;
  const char* blamed;
  const char* why;
};

class RefusedCase : public testing::TestWithParam<Refused> {};

TEST_P(RefusedCase, BlamesTheKnobAndSaysWhy) {
  const auto made = make_case(with(GetParam().knobs), small_family());
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().where, GetParam().blamed);
  EXPECT_THAT(made.error().message, HasSubstr(GetParam().why));
}

INSTANTIATE_TEST_SUITE_P(
    Layouts, RefusedCase,
    testing::Values(Refused{{{"mesh", "ep=5"}}, "mesh", "mesh ep=5 does not divide experts=12; use 1, 2, 3, 4, 6, 12"},
                    Refused{{{"mesh", "tp=5"}}, "mesh", "mesh tp=5 does not divide d_ff=96 and d_model=48"},
                    Refused{{{"mesh", "fsdp=2"}}, "mesh", "fsdp and sp are not offered yet"},
                    Refused{{{"mesh", "sp=2"}}, "mesh", "fsdp and sp are not offered yet"},
                    Refused{{{"mesh", "eq=2"}}, "mesh", "did you mean 'ep'"},
                    Refused{{{"top_k", "13"}}, "top_k", "top_k=13 is more than experts=12"}));

INSTANTIATE_TEST_SUITE_P(
    Values, RefusedCase,
    testing::Values(Refused{{{"values", "exact"}}, "values", "top_k=3"},
                    Refused{{{"values", "exact"}, {"top_k", "4"}, {"routing", "ties"}}, "routing", "use another routing"},
                    Refused{{{"values", "exact"}, {"top_k", "4"}, {"d_model", "12"}}, "d_model", "d_model=12 experts=12"},
                    Refused{{{"values", "provenance"}, {"d_model", "12"}}, "d_model", "d_model > experts"},
                    Refused{{{"routing", "zipf"}, {"d_model", "12"}}, "d_model", "d_model > experts"},
                    Refused{{{"routing", "ties"}, {"top_k", "12"}}, "routing", "beyond the top-k"},
                    Refused{{{"routing", "idle_expert"}, {"top_k", "12"}}, "routing", "top_k < experts=12"},
                    Refused{{{"routing", "idle_rank"}, {"top_k", "7"}, {"mesh", "ep=2"}}, "routing", "fewer than top_k=7"},
                    Refused{{{"routing", "idle_rank"}, {"mesh", "ep=1"}}, "routing", "fewer than top_k=3"}));

INSTANTIATE_TEST_SUITE_P(
    Knobs, RefusedCase,
    testing::Values(Refused{{{"expets_backend", "eager"}}, "expets_backend", "did you mean 'experts_backend'"},
                    Refused{{{"dtype", "bf61"}}, "dtype", "did you mean 'bf16'"}, Refused{{{"seed", "x"}}, "seed", "whole number"},
                    Refused{{{"seed", "-1"}}, "seed", "from 0"}, Refused{{{"tokens", "7,,5"}}, "tokens", "whole number"},
                    Refused{{{"renormalise", "yes"}}, "renormalise", "true or false"}, Refused{{{"phases", "load,fly"}}, "phases", "'fly'"},
                    Refused{{{"impl", "a b"}}, "impl", "expected a name"}, Refused{{{"model", "tiny"}}, "model", "no model family 'tiny'"}));

TEST(MakeCase, NamesTheImplementationThatIsMissing) {
  const auto made = make_case({{"model", "small"}}, small_family());
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().where, "impl");
  EXPECT_THAT(made.error().message, HasSubstr("impl is missing"));
}

TEST(MakeCase, AcceptsTheLayoutsThatDivide) {
  for (const char* mesh : {"none", "ep=2", "ep=3", "ep=4", "ep=6", "ep=12", "dp=2,ep=2", "ep=2,dp=2", "tp=2", "tp=3", "tp=4", "dp=2,tp=2"})
    EXPECT_TRUE(make_case(with({{"mesh", mesh}}), small_family())) << mesh;
}

}  // namespace
}  // namespace moecheck::cases
