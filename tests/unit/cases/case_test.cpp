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
  EXPECT_EQ(one.problem.model.score_function, model::ScoreFunction::kSoftmaxAfterTopk);
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
    testing::Values(Refused{{{"mesh", "eq=2"}}, "mesh", "did you mean 'ep'"}, Refused{{{"mesh", "sp=2"}}, "mesh", "unknown mesh dimension 'sp'"},
                    Refused{{{"mesh", "ep=2"}, {"tokens_over", "dp,ep,dp"}}, "tokens_over", "names dp twice"},
                    Refused{{{"mesh", "ep=2"}, {"tokens_over", "dp,pp"}}, "tokens_over", "'pp'"},
                    Refused{{{"mesh", "dp=2,ep=2"}, {"tokens_over", "ep"}}, "tokens_over", "has dp, which is data parallelism"},
                    Refused{{{"mesh", "fsdp=2"}, {"tokens_over", "dp"}}, "tokens_over", "has fsdp, which is data parallelism"},
                    Refused{{{"mesh", "ep=2"}, {"expert_tp", "one"}}, "expert_tp", "mesh ep=2 has no tp"},
                    Refused{{{"top_k", "13"}}, "top_k", "top_k=13 is more than experts=12"}));

INSTANTIATE_TEST_SUITE_P(
    Phases, RefusedCase,
    testing::Values(Refused{{{"phases", "forward"}}, "phases", "in this order"}, Refused{{{"phases", "load,backward"}}, "phases", "in this order"},
                    Refused{{{"phases", "load,forward,step"}}, "phases", "in this order"},
                    Refused{{{"phases", "load,forward,forward"}}, "phases", "each once"},
                    Refused{{{"phases", "load,forward,backward,step,step"}}, "phases", "each once"},
                    Refused{{{"steps", "2"}}, "steps", "steps=2 needs the phase step"},
                    Refused{{{"microbatches", "2"}, {"phases", "load,forward,backward"}}, "microbatches", "microbatches=2 needs the phase step"},
                    Refused{{{"steps", "0"}}, "steps", "from 1"}, Refused{{{"optimizer", "adam"}}, "optimizer", "did you mean 'adamw'"},
                    Refused{{{"lr", "-0.5"}}, "lr", "from 0"}, Refused{{{"lr", "nan"}}, "lr", "number"}, Refused{{{"lr", "inf"}}, "lr", "number"},
                    Refused{{{"lr", "0.1x"}}, "lr", "number"}, Refused{{{"lr", ""}}, "lr", "number"},
                    Refused{{{"momentum", "1.5"}}, "momentum", "from 0 to 1"}));

INSTANTIATE_TEST_SUITE_P(
    Checkpoints, RefusedCase,
    testing::Values(Refused{{{"restart", "ep=2"}}, "restart", "name a format with save"}, Refused{{{"save_after", "1"}}, "save_after", "name a format with save"},
                    Refused{{{"crash", "torn"}}, "crash", "name a format with save"},
                    Refused{{{"save", "sharded"}, {"save_after", "1"}}, "save_after", "more than the 0 steps"},
                    Refused{{{"save", "huggingface"}, {"save_after", "1"}, {"phases", "load,forward,backward,step"}, {"restart", "back"}}, "save_after", "the weights only"},
                    Refused{{{"save", "sharded"}, {"restart", "ep=2/eq=4"}}, "restart", "did you mean 'ep'"},
                    Refused{{{"save", "sharded"}, {"restart", "dp=2"}, {"tokens_over", "ep"}}, "restart", "on dp=2: mesh dp=2 has dp"},
                    Refused{{{"save", "sharded"}, {"crash", "torn"}, {"phases", "load,forward,backward,step"}, {"steps", "1"}, {"save_after", "1"}, {"restart", "ep=2"}}, "crash", "use steps=2 or more"},
                    Refused{{{"save", "sharded"}, {"crash", "torn"}, {"phases", "load,forward,backward,step"}, {"steps", "2"}}, "crash", "a crash needs a restart"},
                    Refused{{{"save", "sharded"}, {"crash", "torn"}, {"crash_rank", "2"}, {"mesh", "ep=2"}, {"phases", "load,forward,backward,step"}, {"steps", "2"}, {"restart", "ep=2"}},
                            "crash_rank", "no rank of mesh ep=2"},
                    Refused{{{"crash_rank", "most"}}, "crash_rank", "expected a rank or all"}, Refused{{{"crash", "tron"}}, "crash", "did you mean 'torn'"}));

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

TEST(MakeCase, AcceptsEachBeginningOfThePhases) {
  for (const char* phases : {"load", "load,forward", "load,forward,backward", "load,forward,backward,step"})
    EXPECT_TRUE(make_case(with({{"phases", phases}}), small_family())) << phases;
}

TEST(MakeCase, RunsABatchForEachMicrobatchOfEachStep) {
  const Case one = make_case(with({{"phases", "load,forward,backward,step"}, {"steps", "3"}, {"microbatches", "2"}}), small_family()).value();
  EXPECT_EQ(one.num_batches(), 6);
  EXPECT_EQ(one.step_of(3), 1);
  EXPECT_FALSE(one.ends_step(2));
  EXPECT_TRUE(one.ends_step(3));
}

TEST(MakeCase, LowersTheLearningRateStepByStep) {
  const Case one = make_case(with({{"phases", "load,forward,backward,step"}, {"lr", "0.5"}, {"lr_decay", "0.25"}}), small_family()).value();
  EXPECT_EQ(one.learning_rate_of(0), 0.5);
  EXPECT_EQ(one.learning_rate_of(2), 0.03125);
}

TEST(MakeCase, RunsOneBatchWithoutSteps) {
  const Case one = make_case(with({{"phases", "load,forward,backward"}}), small_family()).value();
  EXPECT_EQ(one.num_batches(), 1);
  EXPECT_FALSE(one.ends_step(0));
}

TEST(MakeCase, TakesTheKnobsOfTheTokensTheExpertsAndTheTraining) {
  const Case one = make_case(with({{"mesh", "ep=2,tp=2"}, {"tokens_over", "ep,dp,fsdp"}, {"expert_tp", "one"}, {"apply_scores", "before_experts"},
                                   {"recompute", "true"}, {"optimizer", "adamw"}, {"lr", "0.25"}, {"weight_decay", "0"}, {"clip_norm", "2"}}),
                             small_family()).value();
  EXPECT_THAT(one.problem.token_dims, ElementsAre("ep", "dp", "fsdp"));
  EXPECT_EQ(one.problem.expert_tp, model::ExpertTp::kOne);
  EXPECT_EQ(one.problem.score_position, model::ScorePosition::kBeforeExperts);
  EXPECT_TRUE(one.is_recomputed);
  EXPECT_EQ(one.training.optimizer, OptimizerKind::kAdamW);
  EXPECT_EQ(one.training.learning_rate, 0.25);
  EXPECT_EQ(one.training.momentum, 0.5);
  EXPECT_EQ(one.training.weight_decay, 0);
  EXPECT_EQ(one.training.clip_norm, 2);
}

TEST(MakeCase, LeavesItToTheSubjectToRefuseALayout) {
  for (const char* mesh : {"none", "ep=2", "ep=5", "tp=5", "dp=2,ep=2", "ep=2,dp=2", "fsdp=2,ep=2", "dp=2,fsdp=2,ep=2,tp=2"})
    EXPECT_TRUE(make_case(with({{"mesh", mesh}}), small_family())) << mesh;
}

}  // namespace
}  // namespace moecheck::cases
