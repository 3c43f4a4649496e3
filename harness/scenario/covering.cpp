#include "harness/scenario/covering.h"

#include <algorithm>
#include <bit>
#include <numeric>
#include <queue>

#include "harness/base/require.h"

namespace moecheck::scenario {
namespace {

using Word = std::uint64_t;
constexpr std::size_t kBitsOfAWord = 64;

// One bit a candidate.
using RowSet = std::vector<Word>;

// Axes in which two candidates differ. The others have one value everywhere, and a combination with it is covered where the rest is.
std::vector<std::size_t> varying_axes(std::size_t num_axes, const std::vector<ValueIds>& candidates) {
  std::vector<std::size_t> varying;
  for (std::size_t axis = 0; axis < num_axes; ++axis)
    if (std::ranges::any_of(candidates, [&](const ValueIds& row) { return row[axis] != candidates[0][axis]; })) varying.push_back(axis);
  return varying;
}

// All subsets of `axes` with `size` elements, in lexicographic order.
std::vector<std::vector<std::size_t>> subsets(const std::vector<std::size_t>& axes, std::size_t size) {
  std::vector<std::vector<std::size_t>> all;
  std::vector<bool> is_in(axes.size(), false);
  std::fill_n(is_in.begin(), size, true);
  do {
    std::vector<std::size_t> one;
    for (std::size_t i = 0; i < axes.size(); ++i)
      if (is_in[i]) one.push_back(axes[i]);
    all.push_back(std::move(one));
  } while (std::prev_permutation(is_in.begin(), is_in.end()));
  return all;
}

// What is covered so far, and how many combinations each candidate would add. A gain is kept exact: when a combination becomes covered,
// each candidate that has it loses one, once. So the whole choice costs as much as counting all gains one time.
class Coverage {
 public:
  Coverage(const std::vector<std::size_t>& num_values_A, const std::vector<ValueIds>& candidates,
           std::vector<std::vector<std::size_t>> axis_sets)
      : num_values_A_(num_values_A), candidates_(candidates), axis_sets_(std::move(axis_sets)) {
    for (const auto& axes : axis_sets_) {
      std::size_t num_combinations = 1;
      for (const std::size_t axis : axes) num_combinations *= num_values_A_[axis];
      is_covered_.emplace_back(num_combinations, false);
    }
    gains_.assign(candidates_.size(), axis_sets_.size());
    const std::size_t num_words = (candidates_.size() + kBitsOfAWord - 1) / kBitsOfAWord;
    for (const std::size_t num_values : num_values_A_) rows_with_.emplace_back(num_values, RowSet(num_words, 0));
    for (std::size_t row = 0; row < candidates_.size(); ++row)
      for (std::size_t axis = 0; axis < num_values_A_.size(); ++axis)
        rows_with_[axis][candidates_[row][axis]][row / kBitsOfAWord] |= Word{1} << (row % kBitsOfAWord);
  }

  std::size_t gain(std::size_t row) const { return gains_[row]; }

  void choose(std::size_t row) {
    for (std::size_t set_id = 0; set_id < axis_sets_.size(); ++set_id) {
      const std::size_t combination = combination_of(row, axis_sets_[set_id]);
      if (is_covered_[set_id][combination]) continue;
      is_covered_[set_id][combination] = true;
      take_gain_of_rows_like(row, axis_sets_[set_id]);
    }
  }

 private:
  // The values of `row` on `axes` as a number in mixed radix.
  std::size_t combination_of(std::size_t row, const std::vector<std::size_t>& axes) const {
    std::size_t number = 0;
    for (const std::size_t axis : axes) number = number * num_values_A_[axis] + candidates_[row][axis];
    return number;
  }

  void take_gain_of_rows_like(std::size_t row, const std::vector<std::size_t>& axes) {
    RowSet like = rows_with_[axes[0]][candidates_[row][axes[0]]];
    for (std::size_t i = 1; i < axes.size(); ++i) {
      const RowSet& more = rows_with_[axes[i]][candidates_[row][axes[i]]];
      for (std::size_t word = 0; word < like.size(); ++word) like[word] &= more[word];
    }
    for (std::size_t word = 0; word < like.size(); ++word)
      for (Word bits = like[word]; bits != 0; bits &= bits - 1)
        --gains_[word * kBitsOfAWord + static_cast<std::size_t>(std::countr_zero(bits))];
  }

  const std::vector<std::size_t>& num_values_A_;
  const std::vector<ValueIds>& candidates_;
  std::vector<std::vector<std::size_t>> axis_sets_;
  std::vector<std::vector<bool>> is_covered_;    // [axis set][combination]
  std::vector<std::vector<RowSet>> rows_with_;   // [axis][value]
  std::vector<std::size_t> gains_;               // [candidate]
};

// A candidate in the queue, with a gain that may have fallen since.
struct Bid {
  std::size_t gain;
  std::size_t row;
  // std::priority_queue offers the largest: the most gain, and the first row of equals.
  bool operator<(const Bid& other) const { return gain != other.gain ? gain < other.gain : row > other.row; }
};

std::vector<std::size_t> greedy_rows(Coverage& coverage, std::size_t num_rows) {
  std::vector<Bid> bids;
  bids.reserve(num_rows);
  for (std::size_t row = 0; row < num_rows; ++row) bids.push_back({coverage.gain(row), row});
  std::priority_queue<Bid> queue(std::less<Bid>(), std::move(bids));
  std::vector<std::size_t> chosen;
  while (!queue.empty()) {
    const Bid best = queue.top();
    queue.pop();
    const std::size_t gain = coverage.gain(best.row);
    if (gain == 0) continue;
    // Gains only fall: a bid that still holds beats all others, whatever has become of them.
    if (gain != best.gain) {
      queue.push({gain, best.row});
      continue;
    }
    coverage.choose(best.row);
    chosen.push_back(best.row);
  }
  std::ranges::sort(chosen);
  return chosen;
}

}  // namespace

std::vector<std::size_t> covering_rows(const std::vector<std::size_t>& num_values_A, const std::vector<ValueIds>& candidates,
                                       std::size_t strength) {
  MOECHECK_REQUIRE(strength >= 1);
  for (const ValueIds& row : candidates) {
    MOECHECK_REQUIRE(row.size() == num_values_A.size());
    for (std::size_t axis = 0; axis < row.size(); ++axis) MOECHECK_REQUIRE(row[axis] < num_values_A[axis]);
  }
  const auto axes = varying_axes(num_values_A.size(), candidates);
  if (axes.size() <= strength) {  // each row is the only one with its combination
    std::vector<std::size_t> all(candidates.size());
    std::iota(all.begin(), all.end(), std::size_t{0});
    return all;
  }
  Coverage coverage(num_values_A, candidates, subsets(axes, strength));
  return greedy_rows(coverage, candidates.size());
}

}  // namespace moecheck::scenario
