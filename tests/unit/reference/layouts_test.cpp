// Every way in which tokens, rows and experts may lie: a sound trace is judged equal, and a damage to any stage is seen there.
#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "reference/evaluate.h"
#include "tests/unit/reference/observed_fixture.h"

namespace moecheck::reference {
namespace {

using trace::Expected;
using trace::ExpectedTap;
using trace::Trace;

const std::vector<std::string> kStages = {"input/x_TD",         "router/logits_TE", "router/scores_TK", "experts/in_RD",
                                          "experts/gate_up_RG", "experts/act_RF",   "experts/out_RD",   "combine/partial_TD",
                                          "output/y_TD"};

class EveryLayout : public testing::TestWithParam<Layout> {};
INSTANTIATE_TEST_SUITE_P(Evaluate, EveryLayout, testing::ValuesIn(layouts()), [](const auto& layout) { return layout.param.name; });

TEST_P(EveryLayout, AgreesWithASoundTraceWithinRounding) {
  const Trace sound = sound_trace(GetParam().one, GetParam().exchange);
  const Expected expected = evaluate_batch(GetParam().one, sound);
  for (std::size_t r = 0; r < sound.ranks.size(); ++r)
    for (const std::string& stage : kStages) {
      SCOPED_TRACE(stage + " of rank " + std::to_string(r));
      ASSERT_TRUE(expected.ranks[r].taps.contains(stage));
      const ExpectedTap& tap = expected.ranks[r].taps.at(stage);
      EXPECT_LE(used_by(tap, *sound.ranks[r].tensor(stage)), 1);
      EXPECT_THAT(tap.is_comparable, testing::Each(1));
    }
}

TEST_P(EveryLayout, SeesADamageToAnyStageOfAnyRankThere) {
  const Trace sound = sound_trace(GetParam().one, GetParam().exchange);
  for (std::size_t r = 0; r < sound.ranks.size(); ++r)
    for (const std::string& stage : kStages) {
      if (sound.ranks[r].tensor(stage)->numel() == 0) continue;
      const Trace damaged = perturbed(sound, r, stage);
      const Expected expected = evaluate_batch(GetParam().one, damaged);
      EXPECT_GT(used_by(expected.ranks[r].taps.at(stage), *damaged.ranks[r].tensor(stage)), 1) << stage << " of rank " << r;
    }
}

TEST_P(EveryLayout, GivesTheFloatLayerFromEndToEnd) {
  const cases::Case& one = GetParam().one;
  const Expected expected = evaluate_batch(one, sound_trace(one, GetParam().exchange));
  const inputs::Generator generator(one.problem);
  for (Dim r = 0; r < one.world_size(); ++r) {
    GeneratedWeights<float> weights(generator);
    const auto layer = MoeLayer<float>(one.problem.model, weights, one.problem.score_position).forward(generated_tokens<float>(generator, r));
    EXPECT_TRUE(base::same_bytes(expected.ranks[static_cast<std::size_t>(r)].end_to_end_TD, tensor_of(layer.y_TD))) << r;
  }
}

// So that the tests above are about what they say.
TEST(Layouts, MoveRowsOfOtherRanksTokens) {
  for (const Layout& layout : layouts()) {
    if (layout.name != "gathered_over_ep" && layout.name != "all_to_all_uneven") continue;
    const Trace sound = sound_trace(layout.one, layout.exchange);
    const IdMatrix keys = ids_of(*sound.ranks[0].tensor("dispatch/rows_R3"));
    EXPECT_TRUE((keys.col(0).array() >= layout.one.problem.num_tokens(0)).any()) << layout.name;
    EXPECT_EQ(sound.ranks[0].tensor("combine/rows_N3") != nullptr, layout.exchange == Exchange::kAllToAll) << layout.name;
    EXPECT_EQ(sound.ranks[0].tensor("dispatch/tokens_S") != nullptr, layout.exchange == Exchange::kGather) << layout.name;
  }
}

const cases::Case& all_to_all_case() {
  static const cases::Case one = [] {
    cases::Case made = small_case("ep=2", std::vector<std::string>{"dp", "ep"});
    made.problem.tokens_per_rank = {7, 5};
    return made;
  }();
  return one;
}

// First row of a tap with three columns that `matches`.
template <typename Predicate>
Dim row_where(const Trace& trace, std::size_t rank, const std::string& tap, Predicate matches) {
  const IdMatrix keys = ids_of(*trace.ranks[rank].tensor(tap));
  for (Dim i = 0; i < keys.rows(); ++i)
    if (matches(keys(i, 0), keys(i, 2))) return i;
  ADD_FAILURE() << "no such row";
  return 0;
}

void set_key(Trace& trace, std::size_t rank, const std::string& tap, Dim row, Dim column, Dim value) {
  base::HostTensor& tensor = trace.ranks[rank].taps.at(tap).tensor;
  IdMatrix keys = ids_of(tensor);
  keys(row, column) = value;
  tensor = tensor_of(keys);
}

TEST(AllToAll, TakesTheOutputOfARowFromTheRankThatComputedIt) {
  const Trace sound = sound_trace(all_to_all_case(), Exchange::kAllToAll);
  const Dim visitor = row_where(sound, 1, "dispatch/rows_R3", [](Dim token, Dim) { return token < 7; });
  Trace bent = sound;
  base::HostTensor& out = bent.ranks[1].taps.at("experts/out_RD").tensor;
  Matrix<double> out_RD = matrix_of<double>(out);
  out_RD.row(visitor).array() += 1;
  out = tensor_of(out_RD);
  EXPECT_THAT(changed_taps(evaluate_batch(all_to_all_case(), sound), evaluate_batch(all_to_all_case(), bent)),
              testing::ElementsAre("0 combine/partial_TD"));
}

TEST(AllToAll, SeesARowThatCameToTheWrongPlace) {
  Trace swapped = sound_trace(all_to_all_case(), Exchange::kAllToAll);
  base::HostTensor& in = swapped.ranks[1].taps.at("experts/in_RD").tensor;
  Matrix<double> in_RD = matrix_of<double>(in);
  const Dim visitor = row_where(swapped, 1, "dispatch/rows_R3", [](Dim token, Dim) { return token < 7; });
  const Dim own = row_where(swapped, 1, "dispatch/rows_R3", [](Dim token, Dim) { return token >= 7; });
  in_RD.row(visitor).swap(in_RD.row(own));
  in = tensor_of(in_RD);
  const Expected expected = evaluate_batch(all_to_all_case(), swapped);
  EXPECT_GT(used_by(expected.ranks[1].taps.at("experts/in_RD"), in), 1);
}

TEST(AllToAll, CannotSayWhatATokenGetsWhoseRowNobodyComputed) {
  Trace lost = sound_trace(all_to_all_case(), Exchange::kAllToAll);
  const Dim sent = row_where(lost, 0, "combine/rows_N3", [](Dim token, Dim) { return token == 3; });
  const IdMatrix keys = ids_of(*lost.ranks[0].tensor("combine/rows_N3"));
  const Dim other = (keys(sent, 2) + 5) % 12;
  const bool is_taken = (keys.col(0).array() == 3 && keys.col(2).array() == other).any();
  set_key(lost, 0, "combine/rows_N3", sent, 2, is_taken ? (other + 1) % 12 : other);
  const auto tap = evaluate_batch(all_to_all_case(), lost).ranks[0].taps.at("combine/partial_TD");
  EXPECT_THAT(tap.is_comparable, testing::ElementsAre(1, 1, 1, 0, 1, 1, 1));
}

TEST(AllToAll, SeesARowThatWasNotAddedUp) {
  Trace lost = sound_trace(all_to_all_case(), Exchange::kAllToAll);
  base::HostTensor& partial = lost.ranks[0].taps.at("combine/partial_TD").tensor;
  Matrix<double> partial_TD = matrix_of<double>(partial);
  partial_TD.row(2) *= 0.5;
  partial = tensor_of(partial_TD);
  EXPECT_GT(used_by(evaluate_batch(all_to_all_case(), lost).ranks[0].taps.at("combine/partial_TD"), partial), 1);
}

// An all-to-all's own partial sum is its output: no other rank's may be added.
TEST(AllToAll, SumsOverNobodyForItsOwnTokens) {
  const auto expected = evaluate_batch(all_to_all_case(), sound_trace(all_to_all_case(), Exchange::kAllToAll));
  EXPECT_EQ(expected.ranks[0].taps.at("output/y_TD").terms, 1);
  const Layout slices = [] {
    for (Layout& layout : layouts())
      if (layout.name == "all_to_all_of_slices") return layout;
    return Layout{};
  }();
  EXPECT_EQ(evaluate_batch(slices.one, sound_trace(slices.one, slices.exchange)).ranks[0].taps.at("output/y_TD").terms, 2);
}

TEST(Rows, OfTokensOfAnotherDataParallelRankAreNotComparable) {
  const cases::Case one = small_case("dp=2,ep=2", model::Values::kNormal);
  const auto keys = ids_of(*sound_trace(one).ranks[0].tensor("dispatch/rows_R3"));
  const auto expected = evaluate_batch(one, with_first_key(sound_trace(one), {9, keys(0, 1), keys(0, 2)}));
  for (const char* stage : {"experts/in_RD", "experts/gate_up_RG", "experts/act_RF", "experts/out_RD"})
    EXPECT_EQ(expected.ranks[0].taps.at(stage).is_comparable.at(0), 0) << stage;
}

TEST(Rows, AreJudgedByTheTokensThatAnotherRankOfTheLayerRecorded) {
  const cases::Case& one = all_to_all_case();
  Trace blind = sound_trace(one, Exchange::kAllToAll);
  blind.ranks[0].taps.erase("input/x_TD");
  const auto tap = evaluate_batch(one, blind).ranks[1].taps.at("experts/in_RD");
  const IdMatrix keys = ids_of(*blind.ranks[1].tensor("dispatch/rows_R3"));
  for (Dim i = 0; i < keys.rows(); ++i) EXPECT_EQ(tap.is_comparable.at(static_cast<std::size_t>(i)) != 0, keys(i, 0) >= 7) << i;
}

TEST(GatheredTokens, ThatAreListedTwiceHaveNoRowOfTheirOwn) {
  const cases::Case one = small_case("ep=2", std::vector<std::string>{"ep"});
  Trace doubled = sound_trace(one);
  base::HostTensor& tokens = doubled.ranks[0].taps.at("dispatch/tokens_S").tensor;
  std::vector<Dim> listed;
  for (Dim i = 0; i < tokens.numel(); ++i) listed.push_back(i == 4 ? 3 : tokens.int_at(i));
  tokens = base::tensor_from_ints(tokens.shape(), listed);
  const Expected expected = evaluate_batch(one, doubled);
  const auto& partial = expected.ranks[0].taps.at("combine/partial_TD");
  EXPECT_EQ(std::ranges::count(partial.is_comparable, 0), 2);
  EXPECT_EQ(partial.is_comparable.at(3) + partial.is_comparable.at(4), 0);
}

TEST(ScoresBeforeTheExperts, LeaveAStageWithoutItsInputUnjudged) {
  cases::Case one = small_case("ep=2", model::Values::kNormal);
  one.problem.score_position = model::ScorePosition::kBeforeExperts;
  Trace silent = sound_trace(one);
  silent.ranks[0].taps.erase("experts/in_RD");
  EXPECT_FALSE(evaluate_batch(one, silent).ranks[0].taps.contains("experts/gate_up_RG"));
  EXPECT_TRUE(evaluate_batch(one, silent).ranks[1].taps.contains("experts/gate_up_RG"));
}

TEST(ScoresBeforeTheExperts, AreSeenWhereTheyWereForgotten) {
  cases::Case before = small_case("ep=2", model::Values::kNormal);
  before.problem.score_position = model::ScorePosition::kBeforeExperts;
  const cases::Case after = small_case("ep=2", model::Values::kNormal);
  const Trace sound = sound_trace(after);
  const auto taps = evaluate_batch(before, sound).ranks[0].taps;
  EXPECT_GT(used_by(taps.at("experts/in_RD"), *sound.ranks[0].tensor("experts/in_RD")), 1);
  EXPECT_GT(used_by(taps.at("combine/partial_TD"), *sound.ranks[0].tensor("combine/partial_TD")), 1);
  EXPECT_LE(used_by(taps.at("experts/gate_up_RG"), *sound.ranks[0].tensor("experts/gate_up_RG")), 1);
  EXPECT_EQ(taps.at("experts/in_RD").terms, 1);
}

}  // namespace
}  // namespace moecheck::reference
