#include "harness/cases/lives.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/cases/family.h"

namespace moecheck::cases {
namespace {

using testing::ElementsAre;

std::vector<Life> lives_with(KnobValues knobs) { return lives_of(make_case(with(std::move(knobs)), small_family()).value()); }

std::vector<std::string> names_of(const std::vector<Life>& lives) {
  std::vector<std::string> names;
  for (const Life& life : lives) names.push_back(life.name);
  return names;
}

const KnobValues kTraining = {{"mesh", "ep=2"}, {"phases", "load,forward,backward,step"}, {"steps", "4"}, {"microbatches", "2"}, {"save", "sharded"},
                              {"save_after", "2"}};

KnobValues training_with(KnobValues more) {
  more.insert(kTraining.begin(), kTraining.end());
  return more;
}

TEST(Lives, OfAPlainCaseAreOne) {
  const auto lives = lives_with({{"mesh", "ep=2"}});
  EXPECT_THAT(names_of(lives), ElementsAre("main"));
  EXPECT_TRUE(lives[0].saves.empty());
  EXPECT_EQ(lives[0].from, std::nullopt);
}

TEST(Lives, ResumeWithTheStepsThatAreLeftAndAreComparedWithControls) {
  const auto lives = lives_with(training_with({{"restart", "ep=2"}}));
  EXPECT_THAT(names_of(lives), ElementsAre("main", "restart 1 on ep=2", "control 1", "control 2"));
  EXPECT_THAT(lives[0].saves, ElementsAre(PlannedSave{2, CrashPoint::kNone}));
  EXPECT_EQ(lives[0].one.num_batches(), 8);
  EXPECT_EQ(lives[1].one.first_batch, 4);
  EXPECT_EQ(lives[1].one.num_batches(), 8);
  EXPECT_EQ(lives[1].from, 0U);
  EXPECT_EQ(steps_before(lives, lives[1]), 2);
  EXPECT_TRUE(lives[2].saves.empty());
}

TEST(Lives, BetweenTwoRestartsTakeNoStep) {
  const auto lives = lives_with(training_with({{"restart", "ep=4/tp_sharded@tp=2/ep=2"}, {"controls", "0"}}));
  EXPECT_THAT(names_of(lives), ElementsAre("main", "restart 1 on ep=4", "restart 2 on tp=2", "restart 3 on ep=2"));
  EXPECT_EQ(lives[1].one.world_size(), 4);
  EXPECT_FALSE(lives[1].takes_batches);
  EXPECT_THAT(lives[1].one.phases, ElementsAre("load"));
  EXPECT_EQ(lives[1].one.num_batches(), lives[1].one.first_batch + 1);
  EXPECT_TRUE(lives[1].asked.has_phase("step"));
  EXPECT_EQ(lives[2].one.impl, "tp_sharded");
  EXPECT_EQ(lives[3].one.impl, lives[0].one.impl);
  EXPECT_TRUE(lives[3].takes_batches);
  EXPECT_EQ(lives[3].from, 2U);
}

TEST(Lives, OnAnotherLayoutHaveNoControls) {
  EXPECT_THAT(names_of(lives_with(training_with({{"restart", "ep=4"}}))), ElementsAre("main", "restart 1 on ep=4"));
}

TEST(Lives, GoBackToTheFirstLayout) {
  const auto lives = lives_with(training_with({{"restart", "tp_sharded@tp=4/back"}, {"controls", "1"}}));
  EXPECT_THAT(names_of(lives), ElementsAre("main", "restart 1 on tp=4", "restart 2 on ep=2", "control 1"));
  EXPECT_EQ(lives[2].one.impl, lives[0].one.impl);
  EXPECT_EQ(lives[2].one.problem.mesh, lives[0].one.problem.mesh);
}

TEST(Lives, OfACaseWithoutStepsComputeTheirBatchEach) {
  const auto lives = lives_with({{"mesh", "ep=2"}, {"save", "huggingface"}, {"restart", "ep=4"}});
  EXPECT_THAT(names_of(lives), ElementsAre("main", "restart 1 on ep=4"));
  EXPECT_TRUE(lives[1].takes_batches);
  EXPECT_EQ(lives[1].one.first_batch, 0);
}

struct Crash {
  const char* point;
  Dim resumed_after;
};
class CrashedLives : public testing::TestWithParam<Crash> {};

TEST_P(CrashedLives, GoOnFromTheLastWholeSave) {
  const auto lives = lives_with(training_with({{"crash", GetParam().point}, {"restart", "ep=2"}}));
  EXPECT_THAT(lives[0].saves, ElementsAre(PlannedSave{2, CrashPoint::kNone}, PlannedSave{3, *find_crash_point(GetParam().point)}));
  EXPECT_EQ(lives[0].one.num_batches(), 6);
  EXPECT_EQ(steps_before(lives, lives[1]), GetParam().resumed_after);
  EXPECT_EQ(lives[1].one.first_batch, 2 * GetParam().resumed_after);
  EXPECT_EQ(lives[1].one.num_batches(), 8);
}

INSTANTIATE_TEST_SUITE_P(Points, CrashedLives, testing::Values(Crash{"staged", 2}, Crash{"torn", 2}, Crash{"files", 2}, Crash{"index", 2}, Crash{"committed", 3}));

TEST(Lives, TellTheSubjectNothingOfWhatFollows) {
  const auto lives = lives_with(training_with({{"crash", "torn"}, {"restart", "ep=2"}, {"loader", "rank0_broadcast"}}));
  for (const Life& life : lives) {
    EXPECT_TRUE(life.asked.checkpointing.restarts.empty());
    EXPECT_EQ(life.asked.checkpointing.crash, CrashPoint::kNone);
    EXPECT_EQ(life.asked.checkpointing.save, SaveFormat::kSharded);
    EXPECT_EQ(life.asked.checkpointing.loader, Loader::kRank0Broadcast);
    EXPECT_EQ(life.asked.training.steps, 4);
  }
}

}  // namespace
}  // namespace moecheck::cases
