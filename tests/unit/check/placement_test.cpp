// placement on hand-made claims and plans.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "harness/check/registry.h"
#include "harness/trace/layout.h"

namespace moecheck::check {
namespace {

using record::CheckState;
using testing::HasSubstr;

const std::string kGateUp = "param/experts/gate_up_EGD";
const std::string kDown = "param/experts/down_EDF";
const std::string kRouter = "param/router/w_ED";

struct Claims {
  cases::Case one;
  trace::Trace observed;

  explicit Claims(const std::string& mesh) {
    one.problem.model.num_experts = 4;
    one.problem.model.top_k = 2;
    one.problem.model.d_model = 6;
    one.problem.model.d_ff = 8;
    one.problem.mesh = model::Mesh::parse(mesh).value();
    one.phases = {"load", "forward", "backward"};
    for (Dim rank = 0; rank < one.world_size(); ++rank) {
      trace::RankTrace seen;
      seen.rank = rank;
      for (const std::string& tap : {kRouter, kGateUp, kDown, std::string("grad/experts/down_EDF")}) {
        const base::Shape global = trace::global_param_shape(one.problem.model, tap);
        const auto cuts = trace::declared_cuts(one.problem, tap);
        seen.taps[tap] = {base::HostTensor(base::DType::kF32, model::held_shape(cuts, global, one.problem.mesh, rank)), cuts, global};
      }
      observed.ranks.push_back(std::move(seen));
    }
  }

  // One entry a sharded parameter, on every rank.
  void plan() {
    for (trace::RankTrace& rank : observed.ranks)
      for (const std::string& tap : {kGateUp, kDown})
        rank.plan.push_back({"layers.*." + tap, "grouped", trace::declared_cuts(one.problem, tap), {tap}});
  }

  trace::Tapped& at(Dim rank, const std::string& tap) { return observed.ranks.at(static_cast<std::size_t>(rank)).taps.at(tap); }
  trace::PlanEntry& entry(Dim rank, std::size_t i) { return observed.ranks.at(static_cast<std::size_t>(rank)).plan.at(i); }
  void make_whole(Dim rank, const std::string& tap) {
    at(rank, tap) = {base::HostTensor(base::DType::kF32, at(rank, tap).global_shape), {}, at(rank, tap).global_shape};
  }
  CheckOutcome judged() const { return find_check("placement")->run({.one = one, .expected = {}, .observed = observed}); }
};

// The first finding about a tap.
record::Finding about(const CheckOutcome& outcome, const std::string& tap) {
  const auto found = std::ranges::find(outcome.findings, tap, &record::Finding::stage);
  EXPECT_NE(found, outcome.findings.end()) << tap;
  return found == outcome.findings.end() ? record::Finding{} : *found;
}

TEST(Placement, IsSilentOnWhatTheMeshDeclares) {
  for (const std::string mesh : {"ep=2", "tp=2", "ep=2,tp=2", "fsdp=2,ep=2", "fsdp=2,tp=2", "dp=2,ep=2"}) {
    Claims claims(mesh);
    claims.plan();
    const CheckOutcome outcome = claims.judged();
    EXPECT_EQ(outcome.state, CheckState::kPass) << mesh << ": " << (outcome.findings.empty() ? outcome.note : outcome.findings[0].message);
    EXPECT_GE(outcome.compared, 4 * claims.one.world_size());
  }
}

TEST(Placement, IgnoresDimensionsOfSizeOneAndTheOrderOfCuts) {
  Claims claims("ep=2,tp=2,fsdp=1");
  auto& cuts = claims.at(3, kGateUp).cuts;
  std::swap(cuts.at(0), cuts.at(1));
  cuts.push_back({"fsdp", model::shard(0)});
  cuts.push_back({"dp", model::replicate()});
  claims.at(3, "grad/experts/down_EDF").cuts[0].mesh_dim = "fsdp,ep";
  EXPECT_TRUE(claims.judged().findings.empty());
}

TEST(Placement, NamesTheWrongGroup) {
  Claims claims("ep=2,tp=2");
  claims.at(2, kGateUp).cuts = {{"tp", model::shard(0)}, {"ep", model::strided_shard(1, 2)}};
  claims.at(2, kDown).cuts[0].mesh_dim = "tp,ep";
  const CheckOutcome outcome = claims.judged();
  const record::Finding finding = about(outcome, kGateUp);
  EXPECT_EQ(outcome.state, CheckState::kFail);
  EXPECT_EQ(finding.rank, 2);
  EXPECT_EQ(finding.cls, record::FindingClass::kContract);
  EXPECT_THAT(finding.message, HasSubstr("declared Shard(0) over ep"));
  EXPECT_THAT(finding.hypothesis, HasSubstr("over the wrong group"));
  EXPECT_THAT(about(outcome, kDown).hypothesis, HasSubstr("over the wrong group: tp,ep, declared ep"));
}

TEST(Placement, TellsBlocksFromContiguousPieces) {
  Claims claims("tp=2");
  claims.at(1, kGateUp).cuts = {{"tp", model::shard(1)}};   // same shape, other rows
  const CheckOutcome outcome = claims.judged();
  ASSERT_EQ(outcome.findings.size(), 1U);
  EXPECT_EQ(outcome.findings[0].stage, kGateUp);
  EXPECT_EQ(outcome.findings[0].rank, 1);
  EXPECT_THAT(outcome.findings[0].hypothesis, HasSubstr("gate and up are packed"));
}

TEST(Placement, SeesALocalShapeThatTheClaimDoesNotLeave) {
  Claims claims("ep=2");
  claims.at(1, kDown).tensor = base::HostTensor(base::DType::kF32, {4, 6, 8});
  const CheckOutcome outcome = claims.judged();
  ASSERT_EQ(outcome.findings.size(), 1U);
  EXPECT_THAT(outcome.findings[0].message, HasSubstr("leaves this rank (2, 6, 8), it holds (4, 6, 8)"));
}

TEST(Placement, SurvivesClaimsThatCannotBe) {
  Claims claims("tp=2");
  claims.at(0, kDown).cuts = {{"tp", model::shard(7)}};
  claims.at(1, kGateUp).cuts = {{"tp", model::strided_shard(2, 4)}};
  claims.at(1, kRouter).global_shape = {1, 1LL << 60};
  const CheckOutcome outcome = claims.judged();
  EXPECT_EQ(std::ranges::count_if(outcome.findings, [](const auto& f) { return f.message.find("cannot cut") != std::string::npos; }), 2);
  EXPECT_THAT(about(outcome, kRouter).message, HasSubstr("is said to be a part of (1, 1152921504606846976), declared (4, 6)"));
}

TEST(Placement, SaysThatAGradientLiesOtherwiseThanItsParameter) {
  Claims claims("ep=2");
  claims.at(1, "grad/experts/down_EDF").cuts = {};
  const CheckOutcome outcome = claims.judged();
  ASSERT_EQ(outcome.findings.size(), 1U);
  EXPECT_EQ(outcome.findings[0].stage, "grad/experts/down_EDF");
  EXPECT_THAT(outcome.findings[0].message, HasSubstr("lies as Replicate, its parameter as Shard(0) over ep"));
}

// A pattern with a typing error: the style is never applied, and nobody complains.
TEST(Placement, NamesThePlanEntryThatMatchedNothing) {
  Claims claims("ep=2");
  claims.plan();
  for (Dim rank = 0; rank < 2; ++rank) {
    claims.entry(rank, 0).parameters.clear();
    claims.make_whole(rank, kGateUp);
  }
  const CheckOutcome outcome = claims.judged();
  EXPECT_EQ(outcome.state, CheckState::kFail);
  const auto found = std::ranges::find_if(outcome.findings, [](const auto& f) { return f.stage == "load"; });
  ASSERT_NE(found, outcome.findings.end());
  EXPECT_EQ(found->message, "plan entry layers.*.param/experts/gate_up_EGD (grouped) has no effect: it matched no parameter");
}

TEST(Placement, SaysWhatWasPlannedAndNotSharded) {
  Claims claims("ep=2");
  claims.plan();
  claims.make_whole(1, kDown);
  const CheckOutcome outcome = claims.judged();
  const auto found = std::ranges::find_if(outcome.findings, [](const auto& f) { return f.message.starts_with("planned"); });
  ASSERT_NE(found, outcome.findings.end());
  EXPECT_EQ(found->rank, 1);
  EXPECT_EQ(found->stage, kDown);
  EXPECT_THAT(found->message, HasSubstr("not sharded"));
}

TEST(Placement, SaysWhatIsShardedWithoutAnEntry) {
  Claims claims("ep=2");
  claims.plan();
  for (trace::RankTrace& rank : claims.observed.ranks) rank.plan.pop_back();
  const CheckOutcome outcome = claims.judged();
  ASSERT_EQ(outcome.findings.size(), 2U);
  EXPECT_EQ(outcome.findings[1].stage, kDown);
  EXPECT_EQ(outcome.findings[1].message, "sharded without a plan entry");
}

TEST(Placement, SaysThatTheRanksPlansDiffer) {
  Claims claims("ep=2");
  claims.plan();
  claims.entry(1, 0).style = "local";
  const CheckOutcome outcome = claims.judged();
  ASSERT_EQ(outcome.findings.size(), 1U);
  EXPECT_EQ(outcome.findings[0].rank, 1);
  EXPECT_THAT(outcome.findings[0].message, HasSubstr("not that of rank 0"));
}

TEST(Placement, NotesThatNoPlanIsShown) {
  const CheckOutcome outcome = Claims("ep=2").judged();
  EXPECT_EQ(outcome.state, CheckState::kPass);
  EXPECT_THAT(outcome.note, HasSubstr("no rank shows a plan"));
}

TEST(Placement, IsVacuousIfNothingIsSharded) {
  Claims claims("ep=2");
  for (trace::RankTrace& rank : claims.observed.ranks) std::erase_if(rank.taps, [](const auto& tap) { return tap.first != kRouter; });
  const CheckOutcome outcome = claims.judged();
  EXPECT_EQ(outcome.state, CheckState::kVacuous);
  EXPECT_EQ(outcome.note, "the layout sharded nothing");
}

TEST(Placement, FailsIfTheLayoutIsIgnored) {
  Claims claims("ep=2");
  for (Dim rank = 0; rank < 2; ++rank)
    for (const std::string& tap : {kGateUp, kDown}) claims.make_whole(rank, tap);
  const CheckOutcome outcome = claims.judged();
  EXPECT_EQ(outcome.state, CheckState::kFail);
  EXPECT_THAT(about(outcome, kDown).hypothesis, HasSubstr("not sharded at all"));
}

TEST(Placement, IsUnobservedWithoutParameters) {
  Claims claims("ep=2");
  for (trace::RankTrace& rank : claims.observed.ranks) rank.taps.clear();
  EXPECT_EQ(claims.judged().state, CheckState::kUnobserved);
  claims.one.phases.clear();
  EXPECT_EQ(claims.judged().state, CheckState::kNotApplicable);
}

}  // namespace
}  // namespace moecheck::check
