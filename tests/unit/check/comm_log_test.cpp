// comm_log on hand-made logs.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "harness/check/registry.h"

namespace moecheck::check {
namespace {

using record::CheckState;
using testing::AllOf;
using testing::HasSubstr;
using trace::Collective;

// A layer that sends its tokens to the experts and back, and reduces a gradient.
struct Log {
  cases::Case one;
  trace::Trace observed;
  std::vector<PhaseFailure> failures;
  std::optional<CollectiveMismatch> mismatch;

  explicit Log(const std::string& mesh = "ep=2") {
    one.problem.mesh = model::Mesh::parse(mesh).value();
    observed.ranks.resize(static_cast<std::size_t>(one.world_size()));
    const auto n = static_cast<std::size_t>(one.problem.mesh.size("ep"));
    for (std::size_t r = 0; r < observed.ranks.size(); ++r) {
      trace::RankTrace& rank = observed.ranks[r];
      rank.rank = static_cast<Dim>(r);
      const std::size_t me = r % n;
      // Rank i sends rank j 10 i + j rows.
      std::vector<std::int64_t> send, take;
      for (std::size_t j = 0; j < n; ++j) send.push_back(static_cast<Dim>(10 * me + j));
      for (std::size_t j = 0; j < n; ++j) take.push_back(static_cast<Dim>(10 * j + me));
      rank.comm = {{"all_to_all", "ep", 41, "", "bf16", 30, 60, send, take, "experts/in_RD"},
                   {"all_gather", "ep", 42, "", "bf16", 10 + rank.rank, 20, {}, {}, "dispatch/tokens_S"},
                   {"all_reduce", "ep", 43, "sum", "fp32", 70, 280, {}, {}, "grad/scores_TK"},
                   {"all_reduce", "dp", 7, "sum", "fp32", 5, 20, {}, {}, "grad/router/w_ED"}};
      rank.declared_comm = {{"all_to_all", "ep", "experts/in_RD", 1, -1}, {"all_gather", "ep", "dispatch/tokens_S", 1, 20},
                            {"all_reduce", "ep", "grad/scores_TK", 1, 280}, {"all_reduce", "dp", "grad/router/w_ED", 1, 20}};
    }
  }

  std::vector<Collective>& comm(std::size_t rank) { return observed.ranks.at(rank).comm; }
  void undeclare() {
    for (trace::RankTrace& rank : observed.ranks) rank.declared_comm.clear();
  }
  void drop(std::size_t rank, std::size_t at) { comm(rank).erase(comm(rank).begin() + static_cast<std::ptrdiff_t>(at)); }
  CheckOutcome judged() const {
    return find_check("comm_log")->run({.one = one, .expected = {}, .observed = observed, .phase_failures = failures, .mismatch = mismatch});
  }
};

// The only finding.
record::Finding only(const CheckOutcome& outcome) {
  EXPECT_EQ(outcome.findings.size(), 1U);
  return outcome.findings.empty() ? record::Finding{} : outcome.findings[0];
}

TEST(CommLog, IsSilentWhereTheRanksAgree) {
  for (const std::string mesh : {"ep=2", "ep=4", "dp=2,ep=2", "ep=3,dp=1"}) {
    const CheckOutcome outcome = Log(mesh).judged();
    EXPECT_EQ(outcome.state, CheckState::kPass) << mesh << ": " << (outcome.findings.empty() ? outcome.note : outcome.findings[0].message);
    EXPECT_GT(outcome.compared, 0);
  }
}

TEST(CommLog, NamesTheCollectiveThatOnlyOneRankSent) {
  Log log;
  log.undeclare();
  log.drop(1, 1);
  log.comm(1)[1].sequence = 42;
  const record::Finding finding = only(log.judged());
  EXPECT_EQ(finding.stage, "dispatch/tokens_S");
  EXPECT_EQ(finding.rank, 1);
  EXPECT_THAT(finding.message, AllOf(HasSubstr("sent 2 collectives"), HasSubstr("only rank 0 sent all_gather over ep")));
}

TEST(CommLog, NamesTheOddOneOutOfFour) {
  Log log("ep=4");
  log.undeclare();
  log.drop(0, 2);
  const record::Finding finding = only(log.judged());
  EXPECT_EQ(finding.rank, 0);
  EXPECT_THAT(finding.message, AllOf(HasSubstr("rank 0 sent 2"), HasSubstr("only rank 1 sent all_reduce over ep")));
}

TEST(CommLog, SeesEveryFieldThatMustAgree) {
  struct Damage {
    void (*damage)(Collective&);
    std::string words;
  };
  const Damage damages[] = {{[](Collective& c) { c.kind = "broadcast"; }, "different collectives"},
                            {[](Collective& c) { c.site = "grad/x_TD"; }, "different collectives"},
                            {[](Collective& c) { c.reduce_op = "avg"; }, "different operations"},
                            {[](Collective& c) { c.dtype = "bf16"; }, "different dtypes"},
                            {[](Collective& c) { c.count = 69; }, "different counts"}};
  for (const Damage& one : damages) {
    Log log;
    log.undeclare();
    one.damage(log.comm(1)[2]);
    const record::Finding finding = only(log.judged());
    EXPECT_THAT(finding.message, HasSubstr(one.words));
    EXPECT_EQ(finding.rank, 1);
  }
}

TEST(CommLog, PairsTheSplitsOfAnAllToAll) {
  for (const std::string mesh : {"ep=2", "ep=4"}) {
    Log log(mesh);
    log.comm(1)[0].recv_splits[0] = 3;   // rank 0 sends 1
    const CheckOutcome outcome = log.judged();
    ASSERT_FALSE(outcome.findings.empty()) << mesh;
    EXPECT_EQ(outcome.findings[0].stage, "experts/in_RD");
    EXPECT_THAT(outcome.findings[0].message, HasSubstr("rank 0 sends 1 rows to rank 1, which takes 3"));
  }
}

TEST(CommLog, PairsTheSplitsOfTwoRanksThatDoNotLead) {
  Log log("ep=4");
  log.comm(3)[0].send_splits[2] += 1;
  const CheckOutcome outcome = log.judged();
  ASSERT_FALSE(outcome.findings.empty());
  EXPECT_THAT(outcome.findings[0].message, HasSubstr("rank 3 sends 33 rows to rank 2, which takes 32"));
}

TEST(CommLog, SurvivesSplitsForOtherNumbersOfRanks) {
  Log log;
  log.comm(1)[0].send_splits = {1};
  EXPECT_THAT(only(log.judged()).message, HasSubstr("rank 1 has 1 splits for 2 ranks"));
}

TEST(CommLog, SeesAGapInTheSequence) {
  Log log;
  for (std::size_t rank : {0, 1}) log.comm(rank)[2].sequence = 45;
  const CheckOutcome outcome = log.judged();
  ASSERT_EQ(outcome.findings.size(), 2U);
  EXPECT_THAT(outcome.findings[1].message, HasSubstr("sequence 45 follows 42"));
  EXPECT_EQ(outcome.findings[1].rank, 1);
}

// Both ranks leave the reduction out: they agree with each other, and not with what is declared.
TEST(CommLog, NamesTheMissingReduction) {
  Log log;
  for (std::size_t rank : {0, 1}) log.drop(rank, 2);
  const CheckOutcome outcome = log.judged();
  ASSERT_EQ(outcome.findings.size(), 2U);
  EXPECT_EQ(outcome.findings[0].stage, "grad/scores_TK");
  EXPECT_EQ(outcome.findings[0].message, "declared 1 all_reduce over ep at grad/scores_TK, none ran: a missing reduction");
}

TEST(CommLog, NamesTheMissingReductionIfNothingElseIsSent) {
  Log log;
  for (std::size_t rank : {0, 1}) {
    log.comm(rank).clear();
    log.observed.ranks[rank].declared_comm = {{"all_reduce", "ep", "output/y_TD", 1, 8}};
  }
  const CheckOutcome outcome = log.judged();
  ASSERT_EQ(outcome.findings.size(), 2U);
  EXPECT_THAT(outcome.findings[1].message, HasSubstr("a missing reduction"));
}

TEST(CommLog, NamesTheRedundantCollective) {
  Log log;
  for (std::size_t rank : {0, 1}) {
    Collective again = log.comm(rank)[2];
    again.sequence = 44;
    log.comm(rank).push_back(again);
    again.sequence = 45;
    again.site = "layer.norm";
    log.comm(rank).push_back(again);
  }
  const CheckOutcome outcome = log.judged();
  ASSERT_EQ(outcome.findings.size(), 4U);
  EXPECT_EQ(outcome.findings[0].message, "declared 1 all_reduce over ep at grad/scores_TK, 2 ran: redundant");
  EXPECT_EQ(outcome.findings[1].message, "1 all_reduce over ep at layer.norm ran, none is declared: redundant");
  EXPECT_EQ(outcome.findings[1].stage, "comm");
}

TEST(CommLog, ComparesBytesWhereTheyAreDeclared) {
  Log log;
  log.observed.ranks[1].declared_comm[2].bytes = 140;
  const record::Finding finding = only(log.judged());
  EXPECT_EQ(finding.rank, 1);
  EXPECT_EQ(finding.message, "all_reduce over ep at grad/scores_TK: 280 bytes, declared 140");
}

TEST(CommLog, NamesBothSidesOfADeadlock) {
  Log log;
  const Collective got = log.comm(1)[2], want = log.comm(0)[1];
  log.comm(1).resize(1);
  log.comm(0).resize(1);
  log.mismatch = CollectiveMismatch{.rank = 1, .other_rank = 0, .got = got, .want = want};
  const record::Finding finding = only(log.judged());
  EXPECT_EQ(finding.rank, 1);
  EXPECT_EQ(finding.stage, "grad/scores_TK");
  EXPECT_THAT(finding.message, AllOf(HasSubstr("rank 1 entered all_reduce"), HasSubstr("rank 0 had entered all_gather"), HasSubstr("forever")));
}

TEST(CommLog, JudgesACutRunUpToTheShortest) {
  Log log;
  log.failures.push_back({.rank = 1, .phase = "forward", .message = "raised", .traceback = ""});
  log.comm(1).resize(1);
  EXPECT_EQ(log.judged().state, CheckState::kPass);
  log.comm(1)[0].dtype = "fp32";
  EXPECT_THAT(only(log.judged()).message, HasSubstr("different dtypes"));
}

TEST(CommLog, SaysNothingWhereNobodyShowsACollective) {
  Log log;
  log.undeclare();
  for (std::size_t rank : {0, 1}) log.comm(rank).clear();
  EXPECT_EQ(log.judged().state, CheckState::kNotApplicable);
}

}  // namespace
}  // namespace moecheck::check
