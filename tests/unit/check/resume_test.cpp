// A resumed run, and one that saved, beside runs that never stopped.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "simulated_lives.h"
#include "simulated_run.h"

namespace moecheck::check {
namespace {

using base::HostTensor;
using record::CheckState;
using record::FindingClass;
using testing::AllOf;
using testing::HasSubstr;

constexpr std::size_t kMain = 0, kRestart = 1, kControl = 2;   // lives of a case with one restart
const std::string kMoment = "optim/m/experts/down_EDF";

TEST(ResumeDeterminism, IsSilentOnSoundLives) {
  for (const std::string mesh : {"ep=2", "dp=2,ep=2"}) {
    SimulatedLives run(case_with_lives(mesh, {mesh}));
    const CheckOutcome outcome = run.check("resume_determinism");
    EXPECT_EQ(outcome.state, CheckState::kPass) << messages(outcome);
    EXPECT_GT(outcome.compared, 0);
    EXPECT_EQ(run.check("save_undisturbed").state, CheckState::kPass);
  }
}

TEST(ResumeDeterminism, NamesTheFirstStepAndTapThatDiffer) {
  SimulatedLives run(case_with_lives("ep=2", {"ep=2"}));
  HostTensor& moment = run.shown(kRestart, 3, 1, kMoment);
  moment.set(30, std::nextafter(static_cast<float>(moment.at(30)), 2.0F));
  run.shown(kRestart, 3, 1, "optim/param/experts/down_EDF").set(0, 1);
  const CheckOutcome outcome = run.check("resume_determinism");
  ASSERT_EQ(outcome.findings.size(), 1U) << messages(outcome);
  const record::Finding& finding = outcome.findings[0];
  EXPECT_EQ(finding.cls, FindingClass::kBug);
  EXPECT_EQ(finding.stage, kMoment);
  EXPECT_EQ(finding.step, 2);
  EXPECT_EQ(finding.rank, 1);
  EXPECT_EQ(finding.expert, 3);
  EXPECT_EQ(finding.life, "restart 1 on ep=2");
  EXPECT_THAT(finding.message, AllOf(HasSubstr("1 of 48 elements differ from control 1"), HasSubstr("(microbatch 2); in all 2 of")));
}

// Lives: main, restart, three controls; the controls are 2^-10 apart in one output.
class Noisy : public testing::Test {
 protected:
  static cases::Case of(Dim num_controls) {
    cases::Case one = case_with_lives("ep=2", {"ep=2"});
    one.checkpointing.controls = num_controls;
    return one;
  }
  void move(std::size_t life, double by) {
    HostTensor& y_TD = run_.shown(life, 2, 0, "output/y_TD");
    y_TD.set(7, y_TD.at(7) + by);
  }
  // Of output/y_TD in the controls.
  double size() {
    double squares = 0, count = 0;
    for (std::size_t life = kControl; life < run_.lives.size(); ++life)
      for (std::size_t r = 0; r < 2; ++r)
        for (const double y : run_.shown(life, 2, r, "output/y_TD").to_doubles()) {
          squares += y * y;
          ++count;
        }
    return std::sqrt(squares / count);
  }
  CheckOutcome resumed(double by) {
    move(kControl, 0x1p-10);
    move(kRestart, by);
    return run_.check("resume_determinism");
  }

  SimulatedLives run_{of(3)};
};

TEST_F(Noisy, IsInformationWithinTheEnvelope) {
  const CheckOutcome outcome = resumed(-0x1p-11);
  EXPECT_EQ(outcome.state, CheckState::kPass);
  ASSERT_EQ(outcome.findings.size(), 1U) << messages(outcome);
  EXPECT_EQ(outcome.findings[0].cls, FindingClass::kNoise);
  EXPECT_EQ(outcome.findings[0].stage, "output/y_TD");
  EXPECT_NEAR(*outcome.findings[0].bound, 0x1p-10 / size(), 0x1p-20);
  EXPECT_NEAR(*outcome.findings[0].used, 0.5, 0x1p-8);
  EXPECT_THAT(outcome.findings[0].message, HasSubstr("level 1/4"));
}

TEST_F(Noisy, IsOpenJustAboveTheEnvelope) {
  const CheckOutcome outcome = resumed(-0x1p-9);
  ASSERT_EQ(outcome.findings.size(), 1U) << messages(outcome);
  EXPECT_EQ(outcome.findings[0].cls, FindingClass::kInconclusive);
}

TEST_F(Noisy, IsABugFarAboveTheEnvelope) {
  const CheckOutcome outcome = resumed(-0x1p-7);
  EXPECT_EQ(outcome.state, CheckState::kFail);
  ASSERT_EQ(outcome.findings.size(), 1U) << messages(outcome);
  EXPECT_EQ(outcome.findings[0].cls, FindingClass::kBug);
  EXPECT_GT(*outcome.findings[0].used, 4);
}

TEST_F(Noisy, IsABugWithANaN) {
  EXPECT_EQ(first_failure(resumed(std::numeric_limits<double>::quiet_NaN())).stage, "output/y_TD");
}

TEST(ResumeDeterminism, IsOpenWithFewerThanTwoControls) {
  for (const Dim num_controls : {0, 1}) {
    cases::Case one = case_with_lives("ep=2", {"ep=2"});
    one.checkpointing.controls = num_controls;
    SimulatedLives run(one);
    EXPECT_EQ(run.check("resume_determinism").state, CheckState::kPass);
    HostTensor& y_TD = run.shown(kRestart, 2, 0, "output/y_TD");
    y_TD.set(7, 2);
    const CheckOutcome outcome = run.check("resume_determinism");
    ASSERT_EQ(outcome.findings.size(), 1U) << messages(outcome);
    EXPECT_EQ(outcome.findings[0].cls, FindingClass::kInconclusive);
    // Main shows the same: the odd one is the control.
    run.shown(kMain, 2, 0, "output/y_TD").set(7, 2);
    EXPECT_TRUE(run.check("resume_determinism").findings.empty());
  }
}

TEST(ResumeDeterminism, ReportsATapThatIsGone) {
  SimulatedLives run(case_with_lives("ep=2", {"ep=2"}));
  for (trace::RankTrace& rank : run.lives[kRestart].batches[3].ranks) rank.taps.erase(kMoment);
  const CheckOutcome outcome = run.check("resume_determinism");
  ASSERT_EQ(outcome.findings.size(), 2U) << messages(outcome);   // one a rank
  EXPECT_THAT(outcome.findings[0].message, HasSubstr("shows nothing, control 1 and its like show (2, 6, 4)"));
}

// Gradients that cannot round: all ones, as expected.
SimulatedLives& with_exact_gradients(SimulatedLives& run) {
  for (SimulatedLife& life : run.lives)
    for (std::size_t b = 0; b < life.batches.size(); ++b)
      for (std::size_t r = 0; r < life.batches[b].ranks.size(); ++r)
        for (const std::string parameter : {"router/w_ED", "experts/gate_up_EGD", "experts/down_EDF"}) {
          const base::Shape shape = life.batches[b].ranks[r].taps.at("param/" + parameter).tensor.shape();
          HostTensor ones(base::DType::kF32, shape);
          for (Dim i = 0; i < ones.numel(); ++i) ones.set(i, 1);
          life.batches[b].ranks[r].taps["grad/" + parameter] = {ones, {}, shape};
          life.expected[b].ranks[r].taps["grad/" + parameter] = {ones, ones, 1};
        }
  return run;
}

TEST(ResumeDeterminism, ComparesTheFirstStepOnAnotherLayout) {
  cases::Case one = case_with_lives("ep=2", {"fsdp=2,ep=2"});
  one.checkpointing.save_after = 0;
  one.problem.values = model::Values::kExact;
  SimulatedLives run(one);
  EXPECT_EQ(run.check("resume_determinism").state, CheckState::kNotApplicable);
  const CheckOutcome sound = with_exact_gradients(run).check("resume_determinism");
  EXPECT_EQ(sound.state, CheckState::kPass) << messages(sound) << sound.note;
  HostTensor& master = run.shown(kRestart, 1, 3, "optim/master/experts/down_EDF");
  master.set(0, 7);
  const CheckOutcome outcome = run.check("resume_determinism");
  ASSERT_EQ(outcome.findings.size(), 1U) << messages(outcome);
  EXPECT_EQ(outcome.findings[0].expert, 2);
  EXPECT_EQ(outcome.findings[0].step, 1);
  EXPECT_THAT(outcome.findings[0].message, HasSubstr("1 of 96 elements are not those of the same step on ep=2"));
}

TEST(ResumeDeterminism, DoesNotJudgeALaterStepOnAnotherLayout) {
  EXPECT_EQ(SimulatedLives(case_with_lives("ep=2", {"ep=4"})).check("resume_determinism").state, CheckState::kNotApplicable);
  EXPECT_EQ(SimulatedLives(case_with_lives("ep=2", {})).check("resume_determinism").state, CheckState::kNotApplicable);
}

TEST(SaveUndisturbed, ReportsARunThatItsSaveChanged) {
  SimulatedLives run(case_with_lives("ep=2", {"ep=2"}));
  run.shown(kMain, 1, 1, "output/y_TD").set(0, 3);   // before the save
  EXPECT_EQ(run.check("save_undisturbed").state, CheckState::kPass);
  run.shown(kMain, 2, 1, "output/y_TD").set(0, 3);
  const CheckOutcome outcome = run.check("save_undisturbed");
  ASSERT_EQ(outcome.findings.size(), 1U) << messages(outcome);
  EXPECT_EQ(outcome.findings[0].life, "main");
  EXPECT_EQ(outcome.findings[0].rank, 1);
  EXPECT_EQ(outcome.findings[0].step, 2);
  EXPECT_EQ(SimulatedLives(case_with_lives("ep=2", {"ep=4"})).check("save_undisturbed").note, "no control ran");
}

}  // namespace
}  // namespace moecheck::check
