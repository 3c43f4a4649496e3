#include "harness/check/digests.h"

#include <cmath>
#include <limits>
#include <span>

#include <gtest/gtest.h>

#include "reference/evaluate.h"
#include "tests/unit/check/simulated_run.h"

namespace moecheck::check {
namespace {

using base::HostTensor;

constexpr const char* kOutput = "output/y_TD";
constexpr const char* kGradX = "grad/x_TD";
constexpr const char* kGradDown = "grad/experts/down_EDF";

std::map<std::string, std::string> digests_of(const std::string& knobs, Dispatch how = Dispatch::kOwnTokens) {
  const SimulatedRun run("values=exact top_k=4 " + knobs, how);
  return exact_digests(run.one, reference::evaluate(run.one, std::span(&run.observed, 1)), run.observed);
}

TEST(Digests, AreTheSameInEveryLayout) {
  const auto alone = digests_of("mesh=none tokens=12");
  ASSERT_EQ(alone.size(), 1U);
  EXPECT_EQ(alone.at(kOutput).size(), 16U);
  EXPECT_EQ(digests_of("mesh=ep=2 tokens=12"), alone);
  EXPECT_EQ(digests_of("mesh=tp=2 tokens=12"), alone);
  EXPECT_EQ(digests_of("mesh=dp=2,ep=2 tokens=7,5"), alone);
  EXPECT_EQ(digests_of("mesh=ep=2 tokens=5,7 tokens_over=dp,fsdp,ep", Dispatch::kAllToAll), alone);
  EXPECT_NE(digests_of("mesh=none tokens=12 seed=2"), alone);
}

TEST(Digests, AreOfExactValuesOnly) {
  const SimulatedRun run("mesh=none");
  EXPECT_TRUE(exact_digests(run.one, reference::evaluate(run.one, std::span(&run.observed, 1)), run.observed).empty());
}

// A rank's gradients of a small exact case, each element its own number, all of them expected as they are.
class HandMade : public testing::Test {
 protected:
  explicit HandMade(const std::string& mesh = "mesh=none") : one_(SimulatedRun("values=exact top_k=4 tokens=2 " + mesh).one) {
    for (Dim r = 0; r < one_.world_size(); ++r) {
      trace::RankTrace rank;
      rank.rank = r;
      observed_.ranks.push_back(rank);
    }
  }

  void show(Dim rank, const std::string& tap, const HostTensor& tensor) {
    observed_.ranks.at(static_cast<std::size_t>(rank)).taps[tap] = {tensor, {}, tensor.shape()};
  }
  HostTensor& shown(Dim rank, const std::string& tap) { return observed_.ranks.at(static_cast<std::size_t>(rank)).taps.at(tap).tensor; }

  static HostTensor numbers(const base::Shape& shape) {
    HostTensor tensor(base::DType::kF32, shape);
    for (Dim i = 0; i < tensor.numel(); ++i) tensor.set(i, static_cast<double>(i + 1));
    return tensor;
  }

  trace::Expected expected(double magnitude_over_value = 1) const {
    trace::Expected all;
    for (const trace::RankTrace& rank : observed_.ranks) {
      trace::ExpectedRank& want = all.ranks.emplace_back();
      for (const auto& [name, tapped] : rank.taps) {
        std::vector<double> values = tapped.tensor.to_doubles();
        trace::ExpectedTap tap;
        tap.value = base::tensor_from_doubles(base::DType::kF64, tapped.tensor.shape(), values);
        for (double& value : values) value = std::fabs(value) * magnitude_over_value;
        tap.magnitude = base::tensor_from_doubles(base::DType::kF64, tapped.tensor.shape(), values);
        want.taps[name] = std::move(tap);
      }
    }
    return all;
  }
  std::map<std::string, std::string> digests(double magnitude_over_value = 1) const {
    return exact_digests(one_, expected(magnitude_over_value), observed_);
  }

  cases::Case one_;
  trace::Trace observed_;
};

TEST_F(HandMade, DigestChangesWithAnElementAndWithItsPlace) {
  show(0, kGradX, numbers({2, 14}));
  const auto before = digests();
  ASSERT_EQ(before.count(kGradX), 1U);
  shown(0, kGradX).set(3, 99);
  EXPECT_NE(digests(), before);
  shown(0, kGradX).set(3, 4);
  EXPECT_EQ(digests(), before);
  shown(0, kGradX).set(3, 5);
  shown(0, kGradX).set(4, 4);
  EXPECT_NE(digests(), before) << "two elements changed places";
}

TEST_F(HandMade, TakesZerosOfBothSignsForOne) {
  show(0, kGradX, numbers({2, 14}));
  shown(0, kGradX).set(0, 0.0);
  const auto before = digests();
  shown(0, kGradX).set(0, -0.0);
  EXPECT_EQ(digests(), before);
}

TEST_F(HandMade, LeavesOutATensorWhoseSumsMayRound) {
  show(0, kGradX, numbers({2, 14}));
  EXPECT_EQ(digests(0x1p24 / 28).size(), 1U) << "28 is the largest element, 1 their unit";
  EXPECT_TRUE(digests(0x1p24 / 27).empty());
}

TEST_F(HandMade, LeavesOutWhatIsNotAsDeclared) {
  show(0, kGradX, numbers({2, 13}));
  EXPECT_TRUE(digests().empty()) << "shape";
  show(0, kGradX, HostTensor(base::DType::kF64, {2, 14}));
  EXPECT_TRUE(digests().empty()) << "dtype";
  show(0, kGradX, numbers({2, 14}));
  shown(0, kGradX).set(5, std::numeric_limits<double>::infinity());
  EXPECT_TRUE(digests().empty()) << "infinite";
}

TEST_F(HandMade, LeavesOutWhatTheReferenceCannotTell) {
  show(0, kGradX, numbers({2, 14}));
  trace::Expected partly = expected();
  partly.ranks[0].taps[kGradX].is_comparable = {1, 0};
  EXPECT_TRUE(exact_digests(one_, partly, observed_).empty());
  partly.ranks[0].taps.clear();
  EXPECT_TRUE(exact_digests(one_, partly, observed_).empty());
}

class HandMadeOnFourRanks : public HandMade {
 protected:
  HandMadeOnFourRanks() : HandMade("mesh=dp=2,ep=2") {
    for (Dim rank = 0; rank < 4; ++rank) show(rank, kGradDown, numbers({6, 14, 10}));
  }
};

TEST_F(HandMadeOnFourRanks, PutsTogetherTheLowestRankOfEachGroupOfReplicas) {
  const auto before = digests();
  ASSERT_EQ(before.count(kGradDown), 1U);
  shown(3, kGradDown).set(0, 77);
  EXPECT_EQ(digests(), before) << "a replica of rank 1; replica_agreement looks at these";
  shown(1, kGradDown).set(0, 77);
  EXPECT_NE(digests(), before);
}

TEST_F(HandMadeOnFourRanks, TellWhichRankHoldsWhat) {
  const auto before = digests();
  shown(0, kGradDown).set(0, 77);
  const auto first = digests();
  shown(0, kGradDown).set(0, 1);
  shown(1, kGradDown).set(0, 77);
  EXPECT_NE(digests(), first);
  EXPECT_NE(digests(), before);
}

TEST_F(HandMadeOnFourRanks, NeedsEveryRank) {
  observed_.ranks[2].taps.clear();
  EXPECT_TRUE(digests().empty());
}

}  // namespace
}  // namespace moecheck::check
