#include "harness/scenario/covering.h"

#include <map>
#include <set>

#include <gmock/gmock.h>

#include "harness/base/philox.h"

namespace moecheck::scenario {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using Sizes = std::vector<std::size_t>;
using Rows = std::vector<ValueIds>;

// Every row of the product, last axis fastest.
Rows product(const Sizes& num_values_A) {
  Rows all = {{}};
  for (const std::size_t num_values : num_values_A) {
    Rows next;
    for (const ValueIds& row : all)
      for (std::uint32_t value = 0; value < num_values; ++value) {
        next.push_back(row);
        next.back().push_back(value);
      }
    all = std::move(next);
  }
  return all;
}

// What a row covers, by brute force: every set of `strength` (axis, value) pairs.
using Tuple = std::vector<std::pair<std::size_t, std::uint32_t>>;

void add_tuples(std::set<Tuple>& into, const ValueIds& row, std::size_t strength) {
  for (std::uint32_t mask = 0; mask < (1U << row.size()); ++mask) {
    Tuple tuple;
    for (std::size_t axis = 0; axis < row.size(); ++axis)
      if ((mask >> axis & 1U) != 0) tuple.emplace_back(axis, row[axis]);
    if (tuple.size() == strength) into.insert(tuple);
  }
}

std::set<Tuple> tuples_of(const Rows& rows, std::size_t strength) {
  std::set<Tuple> all;
  for (const ValueIds& row : rows) add_tuples(all, row, strength);
  return all;
}

Rows picked(const Rows& rows, const std::vector<std::size_t>& ids) {
  Rows some;
  for (const std::size_t id : ids) some.push_back(rows.at(id));
  return some;
}

// The greedy choice as its definition, without any shortcut.
std::vector<std::size_t> greedy_by_definition(const Rows& candidates, std::size_t strength) {
  std::set<Tuple> covered;
  std::set<std::size_t> chosen;
  while (true) {
    std::size_t best = 0;
    std::size_t best_gain = 0;
    for (std::size_t row = 0; row < candidates.size(); ++row) {
      std::set<Tuple> tuples;
      add_tuples(tuples, candidates[row], strength);
      std::size_t gain = 0;
      for (const Tuple& tuple : tuples) gain += covered.contains(tuple) ? 0 : 1;
      if (gain <= best_gain) continue;
      best = row;
      best_gain = gain;
    }
    if (best_gain == 0) return {chosen.begin(), chosen.end()};
    chosen.insert(best);
    add_tuples(covered, candidates[best], strength);
  }
}

struct Drawn {
  Sizes num_values_A;
  Rows candidates;
  std::size_t strength;
};

// 3 to 6 axes of 2 to 4 values, of whose product some rows are missing. Determinism: a pure function of `seed`.
Drawn drawn(std::uint32_t seed) {
  const auto draw = [&](std::uint32_t step, std::uint32_t which) { return base::philox4x32_10({step, which, 0, 0}, {seed, 1})[0]; };
  Drawn drawn;
  const std::uint32_t num_axes = 3 + draw(0, 0) % 4;
  for (std::uint32_t axis = 0; axis < num_axes; ++axis) drawn.num_values_A.push_back(2 + draw(axis, 1) % 3);
  drawn.strength = 2 + draw(0, 2) % 2;
  const std::uint32_t num_kept_of_8 = 1 + draw(0, 3) % 8;
  std::uint32_t step = 0;
  for (const ValueIds& row : product(drawn.num_values_A))
    if (draw(step++, 4) % 8 < num_kept_of_8) drawn.candidates.push_back(row);
  return drawn;
}

TEST(Covering, CoversWhateverSomeCandidateHas) {
  for (std::uint32_t seed = 0; seed < 60; ++seed) {
    const Drawn d = drawn(seed);
    const auto chosen = covering_rows(d.num_values_A, d.candidates, d.strength);
    EXPECT_EQ(tuples_of(picked(d.candidates, chosen), d.strength), tuples_of(d.candidates, d.strength)) << "seed " << seed;
    EXPECT_TRUE(std::ranges::is_sorted(chosen)) << "seed " << seed;
    EXPECT_EQ(std::ranges::adjacent_find(chosen), chosen.end()) << "seed " << seed;
  }
}

TEST(Covering, ChoosesAsTheDefinitionOfGreedyDoes) {
  for (std::uint32_t seed = 0; seed < 12; ++seed) {
    const Drawn d = drawn(100 + seed);
    EXPECT_EQ(covering_rows(d.num_values_A, d.candidates, d.strength), greedy_by_definition(d.candidates, d.strength)) << "seed " << seed;
  }
}

TEST(Covering, TakesFewRowsOfFourAxesOfThreeValues) {
  const Sizes sizes = {3, 3, 3, 3};
  const auto chosen = covering_rows(sizes, product(sizes), 2);
  EXPECT_GE(chosen.size(), 9U);  // two axes alone have nine pairs
  EXPECT_LE(chosen.size(), 13U);
}

TEST(Covering, TakesFewRowsOfTenBinaryAxes) {
  const Sizes sizes(10, 2);
  EXPECT_LE(covering_rows(sizes, product(sizes), 2).size(), 12U);
  EXPECT_LE(covering_rows(sizes, product(sizes), 3).size(), 28U);
}

// Pins the choice itself: a change of it changes the cases of every scenario with cover.
TEST(Covering, BeginsWithTheFirstRowAndBreaksTiesByOrder) {
  const Sizes sizes = {2, 2, 2};
  EXPECT_THAT(covering_rows(sizes, product(sizes), 2), ElementsAre(0, 3, 5, 6));
}

TEST(Covering, TakesAllRowsOfAsManyAxesAsItsStrength) {
  const Sizes sizes = {2, 3};
  EXPECT_THAT(covering_rows(sizes, product(sizes), 2), ElementsAre(0, 1, 2, 3, 4, 5));
  EXPECT_THAT(covering_rows(sizes, product(sizes), 3), ElementsAre(0, 1, 2, 3, 4, 5));
}

TEST(Covering, AnAxisOfOneValueChangesNothing) {
  const Sizes sizes = {3, 1, 3, 3, 1};
  const Rows rows = product(sizes);
  const auto chosen = covering_rows(sizes, rows, 3);
  EXPECT_EQ(tuples_of(picked(rows, chosen), 3), tuples_of(rows, 3));
  EXPECT_EQ(covering_rows(sizes, rows, 2), covering_rows({3, 3, 3}, product({3, 3, 3}), 2));
}

TEST(Covering, OneCandidateIsChosen) {
  EXPECT_THAT(covering_rows({2, 2, 2}, {{1, 0, 1}}, 2), ElementsAre(0));
}

TEST(Covering, NoCandidatesGiveNoRows) { EXPECT_THAT(covering_rows({2, 2, 2}, {}, 2), IsEmpty()); }

TEST(Covering, RefusesAValueThatItsAxisDoesNotHave) { EXPECT_DEATH(covering_rows({2, 2}, {{0, 2}}, 2), "row\\[axis\\]"); }

}  // namespace
}  // namespace moecheck::scenario
