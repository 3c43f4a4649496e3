#include "harness/launch/collective_ledger.h"

#include <gtest/gtest.h>

namespace moecheck::launch {
namespace {

using trace::Collective;

CollectiveLedger ledger(std::string_view mesh) { return CollectiveLedger(model::Mesh::parse(mesh).value()); }

Collective all_reduce(std::int64_t sequence, std::int64_t count = 35, const std::string& group = "ep") {
  return {"all_reduce", group, sequence, "sum", "fp32", count, 4 * count, {}, {}, "output/y_TD"};
}

Collective of_kind(const std::string& kind, std::int64_t count) {
  Collective one = all_reduce(1, count);
  one.kind = kind;
  return one;
}

TEST(CollectiveLedger, NamesBothRanksOfAMismatch) {
  auto one = ledger("ep=2");
  EXPECT_FALSE(one.enter(1, all_reduce(1)));
  const auto mismatch = one.enter(0, all_reduce(1, 30));
  ASSERT_TRUE(mismatch);
  EXPECT_EQ(mismatch->rank, 0);
  EXPECT_EQ(mismatch->other_rank, 1);
  EXPECT_EQ(mismatch->got, all_reduce(1, 30));
  EXPECT_EQ(mismatch->want, all_reduce(1));
}

TEST(CollectiveLedger, ComparesKindDtypeAndOperation) {
  for (std::string Collective::*field : {&Collective::kind, &Collective::dtype, &Collective::reduce_op}) {
    auto one = ledger("ep=2");
    Collective other = all_reduce(1);
    other.*field = "other";
    ASSERT_FALSE(one.enter(0, all_reduce(1)));
    EXPECT_TRUE(one.enter(1, other));
  }
}

TEST(CollectiveLedger, ComparesCountsWhereRanksMustPutInTheSame) {
  for (const char* kind : {"all_reduce", "broadcast", "reduce_scatter", "all_gather"}) {
    auto one = ledger("ep=2");
    ASSERT_FALSE(one.enter(0, of_kind(kind, 35)));
    EXPECT_EQ(one.enter(1, of_kind(kind, 30)).has_value(), std::string_view(kind) != "all_gather") << kind;
  }
}

TEST(CollectiveLedger, TakesTheCallSiteForNoPartOfTheAgreement) {
  auto one = ledger("ep=2");
  Collective elsewhere = all_reduce(1);
  elsewhere.site = "combine/partial_TD";
  ASSERT_FALSE(one.enter(0, all_reduce(1)));
  EXPECT_FALSE(one.enter(1, elsewhere));
}

TEST(CollectiveLedger, LetsARankRunAheadOfItsGroup) {
  auto one = ledger("ep=2");
  for (std::int64_t n = 1; n <= 5; ++n) ASSERT_FALSE(one.enter(0, all_reduce(n, 10 * n)));
  for (std::int64_t n = 1; n <= 4; ++n) EXPECT_FALSE(one.enter(1, all_reduce(n, 10 * n)));
  EXPECT_TRUE(one.enter(1, all_reduce(5, 10)));
}

TEST(CollectiveLedger, KeepsGroupsOfOneNameApart) {
  auto one = ledger("dp=2,ep=2");
  ASSERT_FALSE(one.enter(0, all_reduce(1, 10)));
  EXPECT_FALSE(one.enter(2, all_reduce(1, 20))) << "ranks 2 and 3 are a group of their own";
  EXPECT_FALSE(one.enter(1, all_reduce(1, 10)));
  EXPECT_TRUE(one.enter(3, all_reduce(1, 10)));
}

TEST(CollectiveLedger, CountsEachGroupOfARankByItself) {
  auto one = ledger("dp=2,ep=2");
  ASSERT_FALSE(one.enter(0, all_reduce(1, 10, "ep")));
  ASSERT_FALSE(one.enter(0, all_reduce(1, 20, "dp")));
  EXPECT_FALSE(one.enter(2, all_reduce(1, 20, "dp")));
  EXPECT_FALSE(one.enter(1, all_reduce(1, 10, "ep")));
  ASSERT_FALSE(one.enter(3, all_reduce(1, 7, "dp,ep")));
  EXPECT_TRUE(one.enter(0, all_reduce(1, 8, "dp,ep")));
}

Collective all_to_all(std::vector<std::int64_t> send, std::vector<std::int64_t> receive) {
  return {"all_to_all", "ep", 1, "", "fp32", 0, 0, std::move(send), std::move(receive), "experts/in_RD"};
}

TEST(CollectiveLedger, AcceptsAllToAllSplitsThatFitPairByPair) {
  auto one = ledger("ep=3");
  EXPECT_FALSE(one.enter(0, all_to_all({1, 2, 3}, {1, 4, 7})));
  EXPECT_FALSE(one.enter(1, all_to_all({4, 5, 6}, {2, 5, 8})));
  EXPECT_FALSE(one.enter(2, all_to_all({7, 8, 9}, {3, 6, 9})));
}

TEST(CollectiveLedger, FindsThePairWhoseSplitsDoNotFit) {
  auto one = ledger("ep=3");
  ASSERT_FALSE(one.enter(0, all_to_all({1, 2, 3}, {1, 4, 7})));
  ASSERT_FALSE(one.enter(1, all_to_all({4, 5, 6}, {2, 5, 8})));
  const auto mismatch = one.enter(2, all_to_all({7, 8, 9}, {3, 5, 9}));
  ASSERT_TRUE(mismatch) << "rank 1 sends 6 rows to rank 2, which takes 5";
  EXPECT_EQ(mismatch->other_rank, 1);
}

TEST(CollectiveLedger, HasNothingToSayOfWhatHasNoNumberOrNoGroup) {
  auto one = ledger("ep=2");
  EXPECT_FALSE(one.enter(0, all_reduce(0, 1)));
  EXPECT_FALSE(one.enter(1, all_reduce(0, 2)));
  EXPECT_FALSE(one.enter(0, all_reduce(1, 1, "world")));
  EXPECT_FALSE(one.enter(1, all_reduce(1, 2, "world")));
}

TEST(CollectiveLedger, ForgetsTheOldestOfARankThatNobodyFollows) {
  auto one = ledger("ep=2");
  for (std::int64_t n = 1; n <= 10'000; ++n) ASSERT_FALSE(one.enter(0, all_reduce(n)));
  EXPECT_FALSE(one.enter(1, all_reduce(1, 1))) << "forgotten";
  EXPECT_TRUE(one.enter(1, all_reduce(10'000, 1))) << "still known";
}

}  // namespace
}  // namespace moecheck::launch
