// Checks across lives, on a case that saves after its first step and goes on in later lives.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
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

constexpr std::size_t kMain = 0, kRestart = 1;   // lives of a case
const std::string kGateUp = "param/experts/gate_up_EGD";
const std::string kRouter = "param/router/w_ED";
const std::string kMoment = "optim/m/experts/down_EDF";

void fill(HostTensor& tensor, Dim first, Dim count, double value) {
  for (Dim i = first; i < first + count; ++i) tensor.set(i, value);
}

void swap_rows(HostTensor& tensor, Dim a, Dim b) {
  const Dim columns = tensor.shape().back();
  for (Dim i = 0; i < columns; ++i) {
    const double kept = tensor.at(a * columns + i);
    tensor.set(a * columns + i, tensor.at(b * columns + i));
    tensor.set(b * columns + i, kept);
  }
}

void copy(const HostTensor& from, HostTensor& to) {
  for (Dim i = 0; i < to.numel(); ++i) to.set(i, from.at(i));
}

// What a life loaded wrong it would save as it holds it; here its save is left out, so that a test is about the load alone.
SimulatedLives& without_saves(SimulatedLives& run, std::size_t life) {
  run.lives[life].life.saves.clear();
  run.lives[life].saves.clear();
  return run;
}

std::vector<cases::Case> sound_cases() {
  std::vector<cases::Case> all = {case_with_lives("ep=2", {"ep=2"}),           case_with_lives("dp=2,ep=2", {"ep=4", "fsdp=2", "dp=2,ep=2"}),
                                  case_with_lives("ep=2,tp=2", {"fsdp=2,ep=2"}), case_with_lives("none", {"ep=2", "ep=2"})};
  cases::Case weights = case_with_lives("ep=2", {"ep=4", "ep=2"});
  weights.checkpointing.save = cases::SaveFormat::kHuggingFace;
  weights.checkpointing.save_after = 0;
  all.push_back(weights);
  weights.checkpointing.weights = cases::WeightLayout::kPacked;
  all.push_back(weights);
  cases::Case loads_only = case_with_lives("ep=2", {"ep=4"});
  loads_only.phases = {"load", "forward"};
  loads_only.checkpointing.save_after = 0;
  all.push_back(loads_only);
  cases::Case first = case_with_lives("ep=2", {"ep=2"});
  first.checkpointing.save_after = 0;
  all.push_back(first);
  return all;
}

TEST(CheckpointCensus, IsSilentOnSoundLives) {
  for (const cases::Case& one : sound_cases()) {
    const CheckOutcome outcome = SimulatedLives(one).check("checkpoint_census");
    EXPECT_EQ(outcome.state, CheckState::kPass) << one.problem.mesh.text() << ": " << messages(outcome);
    EXPECT_GT(outcome.compared, 0);
    EXPECT_EQ(outcome.note, "");
  }
}

TEST(CheckpointCensus, DoesNotApplyWhereNothingIsSaved) {
  cases::Case one = case_with_lives("ep=2", {});
  one.checkpointing = {};
  EXPECT_EQ(SimulatedLives(one).check("checkpoint_census").state, CheckState::kNotApplicable);
}

TEST(CheckpointCensus, SaysWhoseExpertsALoadBrought) {
  SimulatedLives run(case_with_lives("ep=2", {"ep=2"}));
  for (const std::string tap : {"param/experts/gate_up_EGD", "optim/v/experts/down_EDF"}) copy(run.loaded(kRestart, 0, tap), run.loaded(kRestart, 1, tap));
  const CheckOutcome outcome = without_saves(run, kRestart).check("checkpoint_census");
  ASSERT_EQ(outcome.findings.size(), 2U) << messages(outcome);
  const record::Finding& finding = first_failure(outcome);
  EXPECT_EQ(finding.stage, kGateUp);
  EXPECT_EQ(finding.rank, 1);
  EXPECT_EQ(finding.expert, 2);
  EXPECT_EQ(finding.life, "restart 1 on ep=2");
  EXPECT_THAT(finding.message, AllOf(HasSubstr("loaded from the save after 1 step: experts 2..3 hold experts 0..1"), HasSubstr("1 more tensor: optim/v/experts/down_EDF")));
  EXPECT_THAT(messages(outcome), HasSubstr("nobody holds experts 2..3; more ranks than declared hold experts 0..1"));
}

TEST(CheckpointCensus, NamesWhatWasNeverLoaded) {
  SimulatedLives run(case_with_lives("ep=2", {"dp=2,ep=2"}));
  HostTensor& moment = run.loaded(kRestart, 3, kMoment);
  fill(moment, 0, moment.numel() / 2, std::numeric_limits<double>::quiet_NaN());
  fill(run.loaded(kRestart, 1, kRouter), 6, 6, std::numeric_limits<double>::quiet_NaN());
  const CheckOutcome outcome = without_saves(run, kRestart).check("checkpoint_census");
  ASSERT_EQ(outcome.findings.size(), 2U) << messages(outcome);
  EXPECT_THAT(messages(outcome), HasSubstr(kMoment + " rank 3: loaded from the save after 1 step: expert 2: were never loaded (NaN)"));
  EXPECT_THAT(messages(outcome), HasSubstr(kRouter + " rank 1: loaded from the save after 1 step: row 1 was never loaded (NaN)"));
}

TEST(CheckpointCensus, NamesATensorThatWasNotRestored) {
  SimulatedLives run(case_with_lives("ep=2", {"ep=2"}));
  for (trace::RankTrace& rank : run.lives[kRestart].loaded.ranks) rank.taps.erase(kMoment);
  run.lives[kRestart].loaded.ranks[1].taps.erase("optim/steps_3");
  const CheckOutcome outcome = without_saves(run, kRestart).check("checkpoint_census");
  ASSERT_EQ(outcome.findings.size(), 2U) << messages(outcome);
  EXPECT_THAT(messages(outcome), HasSubstr(kMoment + " rank -1: loaded from the save after 1 step: was not restored: no rank shows this tensor"));
  EXPECT_THAT(messages(outcome), HasSubstr("optim/steps_3 rank 1: loaded from the save after 1 step: was not restored: this rank"));
}

TEST(CheckpointCensus, NamesPermutedRows) {
  SimulatedLives run(case_with_lives("ep=2", {"ep=2"}));
  swap_rows(run.loaded(kRestart, 1, "param/experts/down_EDF"), 6 + 0, 6 + 3);   // the second expert's rows
  swap_rows(run.loaded(kRestart, 0, kRouter), 0, 2);
  const CheckOutcome outcome = without_saves(run, kRestart).check("checkpoint_census");
  ASSERT_EQ(outcome.findings.size(), 2U) << messages(outcome);
  EXPECT_THAT(outcome.findings[0].message, HasSubstr("rows permuted: row 0 holds row 2, row 2 holds row 0"));
  EXPECT_THAT(outcome.findings[1].message, HasSubstr("expert 3: rows permuted: row 0 holds row 3, row 3 holds row 0"));
}

TEST(CheckpointCensus, ComparesCounters) {
  SimulatedLives run(case_with_lives("ep=2", {"ep=2"}));
  run.loaded(kRestart, 1, "state/lr_1").set(0, 0.25);
  run.loaded(kRestart, 0, "state/tokens_E").set(2, 1);
  const CheckOutcome outcome = without_saves(run, kRestart).check("checkpoint_census");
  ASSERT_EQ(outcome.findings.size(), 2U) << messages(outcome);
  EXPECT_THAT(messages(outcome), HasSubstr("state/lr_1 rank 1: loaded from the save after 1 step: is 0.25, should be 0.125"));
  EXPECT_THAT(messages(outcome), HasSubstr("element 2 is 1, should be"));
}

TEST(CheckpointCensus, SaysWhoseExpertsWereSaved) {
  SimulatedLives run(case_with_lives("ep=2", {}));
  HostTensor first;
  run.save_again(kMain, 1, [&](Dim rank, auto& tensors) {
    if (rank == 0) first = tensors[kGateUp];
    else tensors[kGateUp] = first;
  });
  const CheckOutcome outcome = run.check("checkpoint_census");
  EXPECT_THAT(messages(outcome), HasSubstr(kGateUp + " rank 1: in the save after 1 step: experts 2..3 hold experts 0..1"));
  EXPECT_EQ(first_failure(outcome).life, "main");
  EXPECT_EQ(first_failure(outcome).step, 1);
}

TEST(CheckpointCensus, NamesExpertsOfWhichNothingWasSaved) {
  cases::Case one = case_with_lives("ep=2", {});
  one.checkpointing.save = cases::SaveFormat::kHuggingFace;
  SimulatedLives run(one);
  run.save_again(kMain, 1, [](Dim, auto& tensors) {
    std::erase_if(tensors, [](const auto& named) { return named.first.starts_with("layer.experts.2.") || named.first.starts_with("layer.experts.3."); });
    tensors.erase("layer.experts.1.up_proj.weight");
  });
  const CheckOutcome outcome = run.check("checkpoint_census");
  ASSERT_EQ(outcome.findings.size(), 2U) << messages(outcome);
  EXPECT_THAT(outcome.findings[0].message, HasSubstr("experts 2..3 are not in it"));
  EXPECT_EQ(outcome.findings[0].expert, 2);
  EXPECT_EQ(outcome.findings[0].stage, "save");
  EXPECT_THAT(outcome.findings[1].message, HasSubstr("is not in it: layer.experts.1.up_proj.weight"));
}

TEST(CheckpointCensus, ComparesNamesDtypesAndShapes) {
  SimulatedLives run(case_with_lives("ep=2", {}));
  run.save_again(kMain, 1, [](Dim, auto& tensors) {
    tensors.erase("optim/steps_3");
    tensors["state/epoch_1"] = base::tensor_from_ints({1}, std::vector<Dim>{1});
    tensors["state/lr_1"] = base::tensor_from_doubles(base::DType::kF32, {1}, std::vector<double>{0.125});
  });
  const CheckOutcome outcome = run.check("checkpoint_census");
  ASSERT_EQ(outcome.findings.size(), 3U) << messages(outcome);
  for (const record::Finding& finding : outcome.findings) EXPECT_EQ(finding.cls, FindingClass::kContract);
  EXPECT_THAT(outcome.findings[0].message, HasSubstr("is not in it: optim/steps_3"));
  EXPECT_THAT(outcome.findings[1].message, HasSubstr("it holds what is not declared: state/epoch_1"));
  EXPECT_THAT(outcome.findings[2].message, HasSubstr("state/lr_1 is fp32 (1), declared fp64 (1)"));
}

TEST(CheckpointCensus, ReportsADamagedFileAndAMissingSave) {
  SimulatedLives run(case_with_lives("ep=2", {"ep=2"}));
  std::ofstream(run.folder_of(kMain, 1) / "rank1.safetensors", std::ios::app) << "x";
  run.read_again(kMain, 1);
  run.lives[kRestart].saves.clear();
  const CheckOutcome outcome = run.check("checkpoint_census");
  ASSERT_EQ(outcome.findings.size(), 2U) << messages(outcome);
  EXPECT_EQ(outcome.findings[0].stage, "save");
  EXPECT_THAT(outcome.findings[0].message, HasSubstr("the save after 1 step: rank1.safetensors"));
  EXPECT_THAT(outcome.findings[1].message, HasSubstr("the save after 1 step is not there"));
}

// The ranks are killed after the second step's save was written, or in it.
TEST(CheckpointCensus, ExpectsASaveThatACrashCameAfterAndNoOther) {
  for (const auto crash : {cases::CrashPoint::kIndex, cases::CrashPoint::kCommitted}) {
    cases::Case one = case_with_lives("ep=2", {"ep=2"});
    one.training.steps = 3;
    one.checkpointing.crash = crash;
    SimulatedLives run(one);
    EXPECT_EQ(run.check("checkpoint_census").state, CheckState::kPass) << messages(run.check("checkpoint_census"));
    run.lives[kMain].saves.erase(2);
    const CheckOutcome outcome = run.check("checkpoint_census");
    EXPECT_EQ(outcome.state, crash == cases::CrashPoint::kIndex ? CheckState::kPass : CheckState::kFail) << messages(outcome);
  }
}

TEST(CheckpointCensus, SaysThatOneReplicaWasLoadedWrong) {
  SimulatedLives run(case_with_lives("ep=2", {"dp=2,ep=2"}));
  copy(run.loaded(kRestart, 0, kGateUp), run.loaded(kRestart, 3, kGateUp));
  const CheckOutcome outcome = without_saves(run, kRestart).check("checkpoint_census");
  ASSERT_EQ(outcome.findings.size(), 1U) << messages(outcome);   // rank 1 still holds experts 2 and 3
  EXPECT_EQ(outcome.findings[0].rank, 3);
  EXPECT_THAT(outcome.findings[0].message, HasSubstr("experts 2..3 hold experts 0..1"));
}

TEST(CheckpointCensus, ComparesAHuggingFaceSave) {
  cases::Case one = case_with_lives("ep=2", {});
  one.checkpointing.save = cases::SaveFormat::kHuggingFace;
  one.checkpointing.save_after = 0;
  SimulatedLives run(one);
  run.save_again(kMain, 0, [](Dim, auto& tensors) { std::swap(tensors["layer.experts.1.up_proj.weight"], tensors["layer.experts.1.gate_proj.weight"]); });
  const CheckOutcome outcome = run.check("checkpoint_census");
  ASSERT_EQ(outcome.findings.size(), 1U) << messages(outcome);
  EXPECT_EQ(outcome.findings[0].rank, 0);
  EXPECT_THAT(outcome.findings[0].message, HasSubstr("expert 1: rows permuted: gate rows 0..3 hold up rows 0..3, up rows 0..3 hold gate rows 0..3"));
}

TEST(CheckpointRoundTrip, IsSilentOnSoundLives) {
  for (const cases::Case& one : sound_cases()) {
    const CheckOutcome outcome = SimulatedLives(one).check("checkpoint_round_trip");
    EXPECT_EQ(outcome.state, CheckState::kPass) << one.problem.mesh.text() << ": " << messages(outcome) << outcome.note;
  }
  EXPECT_EQ(SimulatedLives(case_with_lives("ep=2", {})).check("checkpoint_round_trip").state, CheckState::kNotApplicable);
}

TEST(CheckpointRoundTrip, ReportsWhatChangedOnTheWay) {
  SimulatedLives run(case_with_lives("ep=2", {"ep=4", "ep=2"}));
  run.save_again(kRestart, 1, [](Dim rank, auto& tensors) {
    if (rank == 2) tensors[kMoment].set(3, 0.5);
  });
  const CheckOutcome outcome = run.check("checkpoint_round_trip");
  ASSERT_EQ(outcome.findings.size(), 2U) << messages(outcome);   // there and back
  EXPECT_THAT(outcome.findings[0].message, HasSubstr(kMoment + " differs in 1 of 96 elements, loaded from the save after 1 step of main (ep_alltoall@ep=2) "
                                                               "and saved again on ep_alltoall@ep=4"));
  EXPECT_EQ(outcome.findings[0].life, "restart 1 on ep=4");
}

TEST(CheckpointRoundTrip, DemandsTheSameFilesOnTheSameLayout) {
  SimulatedLives run(case_with_lives("ep=2", {"ep=2"}));
  // The same tensors in rank 1's file alone: replicas that rank 0 need not write.
  run.save_again(kRestart, 1, [](Dim rank, auto& tensors) {
    if (rank == 1) tensors.erase("state/lr_1");
  });
  const CheckOutcome outcome = run.check("checkpoint_round_trip");
  ASSERT_EQ(outcome.findings.size(), 1U) << messages(outcome);
  EXPECT_THAT(outcome.findings[0].message, HasSubstr("the same tensors, and rank1.safetensors is not the file of the save after 1 step of main"));
}

TEST(TrainingState, IsSilentOnSoundLives) {
  SimulatedLives run(case_with_lives("dp=2,ep=2", {"dp=2,ep=2"}));
  for (const std::size_t life : {kMain, kRestart}) {
    const CheckOutcome outcome = run.check_batch("training_state", life, 3);
    EXPECT_EQ(outcome.state, CheckState::kPass) << messages(outcome) << outcome.note;
    EXPECT_EQ(outcome.compared, 4 * (1 + 1 + 4));
  }
  EXPECT_EQ(run.check_batch("training_state", kMain, 2).state, CheckState::kNotApplicable);
}

TEST(TrainingState, ReportsWhatDoesNotGoOn) {
  SimulatedLives run(case_with_lives("ep=2", {"ep=2"}));
  run.shown(kRestart, 3, 0, "state/batches_1").set(0, 2);
  run.shown(kRestart, 3, 0, "state/lr_1").set(0, 0.125);
  run.shown(kRestart, 3, 1, "state/tokens_E").set(1, 5);
  const CheckOutcome outcome = run.check_batch("training_state", kRestart, 3);
  ASSERT_EQ(outcome.findings.size(), 3U) << messages(outcome);
  EXPECT_THAT(outcome.findings[0].message, HasSubstr("2 batches taken, declared 4"));
  EXPECT_THAT(outcome.findings[1].message, HasSubstr("learning rate is 0.125, the schedule's 0.0625"));
  EXPECT_THAT(outcome.findings[2].message, HasSubstr("expert 1 has 5 rows, routed so far 10"));
  EXPECT_EQ(outcome.findings[2].expert, 1);
}

// The first restart only loads, and saves again.
TEST(BatchChecks, HaveNothingAgainstALifeThatOnlyLoads) {
  SimulatedLives run(case_with_lives("ep=2", {"dp=2,ep=2", "ep=2"}));
  for (const Check& check : checks()) {
    if (check.run == nullptr) continue;
    const CheckOutcome outcome = run.check_batch(std::string(check.name), kRestart, 2);
    EXPECT_TRUE(outcome.findings.empty()) << check.name << ": " << messages(outcome);
    EXPECT_NE(outcome.state, CheckState::kVacuous) << check.name;
  }
}

TEST(ExpertCensus, LeavesTheWeightsOfACheckpointToItsCensus) {
  SimulatedLives run(case_with_lives("ep=2", {"ep=2"}));
  const CheckOutcome outcome = run.check_batch("expert_census", kRestart, 2);
  EXPECT_EQ(outcome.state, CheckState::kNotApplicable);
  EXPECT_THAT(outcome.note, HasSubstr("checkpoint_census"));
}

TEST(ReplicaAgreement, ComparesTheStateOfTheTrainingOnAllRanks) {
  SimulatedLives run(case_with_lives("ep=2", {}));
  run.shown(kMain, 3, 1, "state/lr_1").set(0, 0.125);
  const CheckOutcome outcome = run.check_batch("replica_agreement", kMain, 3);
  EXPECT_THAT(messages(outcome), HasSubstr("state/lr_1 rank 1: differs from its replica on rank 0"));
}

}  // namespace
}  // namespace moecheck::check
