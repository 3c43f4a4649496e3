// No check raises its voice about a sound run, whatever the layout and dtype.
#include <gtest/gtest.h>

#include "simulated_run.h"

namespace moecheck::check {
namespace {

using record::CheckState;
using record::Verdict;

std::string all_findings(const record::CaseRecord& one) {
  std::string text = one.reason + "\n";
  for (const auto& f : one.findings) text += f.check + " " + f.stage + " rank " + std::to_string(f.rank.value_or(-1)) + ": " + f.message + "\n";
  return text;
}

class SoundRun : public testing::TestWithParam<std::string> {};

TEST_P(SoundRun, PassesEveryCheck) {
  const SimulatedRun run(GetParam());
  const record::CaseRecord one = run.judged();
  EXPECT_EQ(one.verdict, Verdict::kPass) << all_findings(one);
  EXPECT_EQ(one.first_diverging, "");
  for (const record::CheckResult& check : one.checks) {
    if (check.name == "comm_log") continue;   // nobody communicates here
    const bool has_replicas = run.one.world_size() > 1;
    if (check.name == "layer_parity" || check.name == "step_parity") continue;   // nothing is hidden here
    const bool is_of_later_phases = check.name == "gradient_parity" || check.name == "euler_identity" || check.name == "optimizer" || check.name == "training_state";
    const bool is_across_lives = find_check(check.name)->run_case != nullptr;   // this is the only one
    const bool applies = (check.name != "replica_agreement" || has_replicas) && !is_of_later_phases && !is_across_lives;
    EXPECT_EQ(check.state, applies ? CheckState::kPass : CheckState::kNotApplicable) << check.name << ": " << check.note;
    EXPECT_EQ(check.compared > 0, applies) << check.name;
  }
}

INSTANTIATE_TEST_SUITE_P(Layouts, SoundRun,
                         testing::Values("mesh=none", "mesh=none dtype=bf16", "mesh=ep=2", "mesh=ep=2 dtype=bf16", "mesh=ep=3", "mesh=ep=3 dtype=bf16",
                                         "mesh=dp=2,ep=2", "mesh=dp=2,ep=2 dtype=bf16", "mesh=tp=2", "mesh=tp=2 dtype=bf16", "mesh=ep=4 top_k=1",
                                         "mesh=ep=2 values=exact top_k=2", "mesh=ep=3 values=exact top_k=4 dtype=bf16", "mesh=tp=2 values=exact top_k=2 dtype=bf16",
                                         "mesh=ep=2 values=provenance dtype=bf16", "mesh=ep=2 routing=ties", "mesh=ep=2 routing=idle_rank",
                                         "mesh=ep=2 routing=one_expert dtype=bf16", "mesh=dp=2,ep=2 tokens=0,5", "mesh=ep=3 routing=zipf tokens=40 dtype=bf16"));

TEST(SoundRun, StaysWithinTheBoundsForManySeeds) {
  for (int seed = 1; seed <= 40; ++seed) {
    const SimulatedRun run("mesh=ep=2 dtype=bf16 seed=" + std::to_string(seed));
    const record::CaseRecord one = run.judged();
    EXPECT_EQ(one.verdict, Verdict::kPass) << "seed " << seed << ": " << all_findings(one);
  }
}

TEST(Judge, CallsACaseWithoutTokensVacuous) {
  const SimulatedRun run("mesh=ep=2 tokens=0");
  const record::CaseRecord one = run.judged();
  EXPECT_EQ(one.verdict, Verdict::kVacuous) << all_findings(one);
  EXPECT_EQ(one.findings.size(), 0U) << all_findings(one);
  EXPECT_EQ(run.check("stage_diff").state, CheckState::kVacuous);
  EXPECT_EQ(run.check("token_conservation").state, CheckState::kVacuous);
  EXPECT_EQ(run.check("expert_census").state, CheckState::kPass);
}

TEST(Judge, FillsAStageCellForEveryStageAndRank) {
  const record::CaseRecord one = SimulatedRun("mesh=ep=2").judged();
  const auto has_cell = [&](const std::string& stage, std::int64_t rank) {
    return std::ranges::any_of(one.stages, [&](const record::StageCell& c) { return c.stage == stage && c.rank == rank && c.compared > 0; });
  };
  for (const std::string stage : {"input/x_TD", "router/logits_TE", "router/scores_TK", "experts/gate_up_RG", "experts/act_RF", "experts/out_RD",
                                  "combine/partial_TD", "output/y_TD", "end_to_end"})
    for (const std::int64_t rank : {0, 1}) EXPECT_TRUE(has_cell(stage, rank)) << stage << " " << rank;
}

TEST(Judge, MergesExpertCellsOfCensusAndConservation) {
  SimulatedRun run("mesh=ep=2");
  const record::CaseRecord one = run.judged();
  ASSERT_EQ(one.experts.size(), 12U);
  std::int64_t tokens = 0;
  for (const record::ExpertCell& cell : one.experts) {
    EXPECT_EQ(cell.rank, cell.expert / 6);
    EXPECT_TRUE(cell.is_local);
    tokens += cell.tokens;
  }
  EXPECT_EQ(tokens, 7 * 3);
}

}  // namespace
}  // namespace moecheck::check
