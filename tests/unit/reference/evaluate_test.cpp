#include "reference/evaluate.h"

#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/reference/observed_fixture.h"

namespace moecheck::reference {
namespace {

using model::Values;
using testing::ElementsAre;
using testing::IsEmpty;
using testing::UnorderedElementsAre;
using trace::Expected;
using trace::ExpectedTap;
using trace::Trace;

const std::vector<std::string> kStages = {"input/x_TD",         "router/logits_TE", "router/scores_TK", "experts/in_RD",
                                          "experts/gate_up_RG", "experts/act_RF",   "experts/out_RD",   "combine/partial_TD",
                                          "output/y_TD"};

void expect_all_taps_agree(const cases::Case& one, const Trace& observed, double limit) {
  const Expected expected = evaluate_batch(one, observed);
  ASSERT_EQ(expected.ranks.size(), observed.ranks.size());
  for (std::size_t r = 0; r < observed.ranks.size(); ++r)
    for (const std::string& stage : kStages) {
      SCOPED_TRACE(stage + " of rank " + std::to_string(r));
      ASSERT_TRUE(expected.ranks[r].taps.contains(stage));
      const ExpectedTap& tap = expected.ranks[r].taps.at(stage);
      EXPECT_LE(used_by(tap, *observed.ranks[r].tensor(stage)), limit);
      EXPECT_THAT(tap.is_comparable, testing::Each(1));
      for (std::int64_t i = 0; i < tap.value.numel(); ++i)
        ASSERT_LE(std::fabs(tap.value.at(i)), tap.magnitude.at(i) * (1 + 1e-12)) << "a magnitude below its value";
    }
}

class EveryMesh : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Evaluate, EveryMesh, testing::Values("none", "ep=2", "ep=4", "tp=2", "dp=2,ep=2"),
                         [](const auto& mesh) { return "mesh" + std::to_string(mesh.index); });

TEST_P(EveryMesh, AgreesWithASoundTraceWithinRounding) {
  const auto one = small_case(GetParam(), Values::kNormal);
  expect_all_taps_agree(one, sound_trace(one), 1.0);
}

TEST_P(EveryMesh, AgreesBitForBitInExactMode) {
  const auto one = small_case(GetParam(), Values::kExact);
  expect_all_taps_agree(one, sound_trace(one), 0.0);
}

TEST_P(EveryMesh, GivesTheFloatLayerFromEndToEnd) {
  const auto one = small_case(GetParam(), Values::kNormal);
  const Expected expected = evaluate_batch(one, sound_trace(one));
  const inputs::Generator generator(one.problem);
  for (Dim r = 0; r < one.world_size(); ++r) {
    GeneratedWeights<float> weights(generator);
    const auto layer = MoeLayer<float>(one.problem.model, weights).forward(generated_tokens<float>(generator, r));
    EXPECT_TRUE(base::same_bytes(expected.ranks[static_cast<std::size_t>(r)].end_to_end_TD, tensor_of(layer.y_TD))) << r;
  }
}

TEST_P(EveryMesh, AgreesForEachRouterVariant) {
  for (const RouterVariant& variant : router_variants()) {
    auto one = small_case(GetParam(), Values::kNormal);
    one.problem.model.score_function = variant.score_function;
    one.problem.model.renormalise = variant.renormalise;
    SCOPED_TRACE(variant.name);
    expect_all_taps_agree(one, sound_trace(one), 1.0);
  }
}

TEST(Evaluate, CountsTheTermsOfEachStage) {
  const auto one = small_case("tp=2", Values::kNormal);
  const auto taps = evaluate_batch(one, sound_trace(one)).ranks[1].taps;
  EXPECT_EQ(taps.at("router/logits_TE").terms, 20);   // D
  EXPECT_EQ(taps.at("router/scores_TK").terms, 12);   // E
  EXPECT_EQ(taps.at("experts/gate_up_RG").terms, 20); // D
  EXPECT_EQ(taps.at("experts/act_RF").terms, 1);
  EXPECT_EQ(taps.at("experts/out_RD").terms, 7);      // F of one rank
  EXPECT_EQ(taps.at("combine/partial_TD").terms, 2);  // K
  EXPECT_EQ(taps.at("output/y_TD").terms, 2);         // ranks
}

TEST(Evaluate, TakesUnevenAndEmptyDataParallelRanks) {
  for (const auto& tokens : {std::vector<Dim>{7, 5}, std::vector<Dim>{6, 0}}) {
    auto one = small_case("dp=2,ep=2", Values::kNormal);
    one.problem.tokens_per_rank = tokens;
    expect_all_taps_agree(one, sound_trace(one), 1.0);
  }
}

struct Influence {
  const char* perturbed;
  std::vector<std::string> changes;
};

class EveryStage : public testing::TestWithParam<Influence> {};

INSTANTIATE_TEST_SUITE_P(
    Evaluate, EveryStage,
    testing::Values(Influence{"input/x_TD", {"0 router/logits_TE", "0 experts/in_RD"}},
                    Influence{"experts/in_RD", {"0 experts/gate_up_RG"}},
                    Influence{"router/logits_TE", {"0 router/scores_TK"}}, Influence{"router/scores_TK", {"0 combine/partial_TD"}},
                    Influence{"experts/gate_up_RG", {"0 experts/act_RF"}}, Influence{"experts/act_RF", {"0 experts/out_RD"}},
                    Influence{"experts/out_RD", {"0 combine/partial_TD"}},
                    Influence{"combine/partial_TD", {"0 output/y_TD", "1 output/y_TD"}}, Influence{"output/y_TD", {}}),
    [](const auto& influence) {
      std::string name = influence.param.perturbed;
      std::ranges::replace(name, '/', '_');
      return name;
    });

TEST_P(EveryStage, ChangesOnlyTheExpectationsOfItsSuccessors) {
  auto one = small_case("ep=2", Values::kNormal);
  one.problem.routing = model::Routing::kKRanks;  // token 0 has a row on rank 0
  const Trace sound = sound_trace(one);
  const auto changed = changed_taps(evaluate_batch(one, sound), evaluate_batch(one, perturbed(sound, 0, GetParam().perturbed)));
  EXPECT_THAT(changed, testing::UnorderedElementsAreArray(GetParam().changes));
}

TEST(Evaluate, ShowsAWrongExpertAtTheStageThatMultipliesWithItsWeights) {
  const auto one = small_case("none", Values::kNormal);
  const Trace sound = sound_trace(one);
  const auto keys = ids_of(*sound.ranks[0].tensor("dispatch/rows_R3"));
  // The subject says that row 0 is another expert's: the true weights of that one give another gate_up and out.
  const Dim other = (keys(0, 2) + 1) % 12;
  const Trace wrong = with_first_key(sound, {keys(0, 0), keys(0, 1), other});
  const auto taps = evaluate_batch(one, wrong).ranks[0].taps;
  for (const std::string& stage : kStages) {
    const bool multiplies = stage == "experts/gate_up_RG" || stage == "experts/out_RD";
    EXPECT_EQ(used_by(taps.at(stage), *wrong.ranks[0].tensor(stage)) > 1, multiplies) << stage;
  }
}

TEST(Evaluate, MarksRowsWhoseKeyIsNoRoutedRow) {
  const auto one = small_case("ep=2", Values::kExact);  // so that a batch that is one row shorter changes no bit
  const Trace sound = sound_trace(one);
  const Expected before = evaluate_batch(one, sound);
  using Key = std::vector<std::int64_t>;
  for (const Key& key : {Key{0, 0, -1}, Key{7, 0, 0}, Key{-1, 0, 0}, Key{0, 2, 0}, Key{0, 0, 12}}) {
    const Expected after = evaluate_batch(one, with_first_key(sound, key));
    for (const char* stage : {"experts/gate_up_RG", "experts/act_RF", "experts/out_RD"}) {
      const ExpectedTap& tap = after.ranks[0].taps.at(stage);
      EXPECT_EQ(tap.is_comparable.at(0), 0) << stage;
      EXPECT_EQ(std::ranges::count(tap.is_comparable, 0), 1) << stage;
      const auto same = before.ranks[0].taps.at(stage).value.to_doubles();
      const auto now = tap.value.to_doubles();
      const std::ptrdiff_t row = tap.value.dim(1);
      EXPECT_TRUE(std::equal(now.begin() + row, now.end(), same.begin() + row, same.end())) << stage;
    }
  }
}

TEST(Evaluate, LeavesAMaskedRowOutOfTheCombine) {
  const auto one = small_case("none", Values::kExact);
  const Trace sound = sound_trace(one);
  const auto keys = ids_of(*sound.ranks[0].tensor("dispatch/rows_R3"));
  const auto masked = evaluate_batch(one, with_first_key(sound, {keys(0, 0), keys(0, 1), -1})).ranks[0].taps.at("combine/partial_TD");
  const auto out_RD = matrix_of<double>(*sound.ranks[0].tensor("experts/out_RD"));
  const auto partial_TD = matrix_of<double>(*sound.ranks[0].tensor("combine/partial_TD"));
  const Matrix<double> expected_D = partial_TD.row(keys(0, 0)) - 0.5 * out_RD.row(0);
  EXPECT_TRUE(matrix_of<double>(masked.value).row(keys(0, 0)) == expected_D);
  EXPECT_THAT(masked.is_comparable, testing::Each(1));
}

TEST(Evaluate, CannotSayWhatARowOfAnUnknownSlotAddedToItsToken) {
  const auto one = small_case("none", Values::kNormal);
  const auto tap = evaluate_batch(one, with_first_key(sound_trace(one), {3, 2, 0})).ranks[0].taps.at("combine/partial_TD");
  EXPECT_THAT(tap.is_comparable, ElementsAre(1, 1, 1, 0, 1, 1, 1));
}

TEST(Evaluate, MarksTokensWithIdsThatAreNoExperts) {
  const auto one = small_case("ep=2", Values::kNormal);
  for (const Dim id : {Dim{-1}, Dim{12}}) {
    Trace observed = sound_trace(one);
    auto& ids = observed.ranks[0].taps.at("router/ids_TK").tensor;
    IdMatrix changed = ids_of(ids);
    changed(2, 1) = id;
    ids = tensor_of(changed);
    const Expected expected = evaluate_batch(one, observed);
    EXPECT_THAT(expected.ranks[0].taps.at("router/scores_TK").is_comparable, ElementsAre(1, 1, 0, 1, 1, 1, 1));
    EXPECT_EQ(expected.ranks[0].end_to_end_TD.numel(), 0);
    EXPECT_GT(expected.ranks[1].end_to_end_TD.numel(), 0);
  }
}

TEST(Evaluate, GivesTokensWithoutRowsAZeroPartial) {
  auto one = small_case("ep=2", Values::kNormal);
  one.problem.routing = model::Routing::kOneRank;
  const Trace observed = sound_trace(one);
  std::size_t num_zero = 0;
  for (std::size_t r = 0; r < 2; ++r) {
    const auto keys = ids_of(*observed.ranks[r].tensor("dispatch/rows_R3"));
    const auto tap = evaluate_batch(one, observed).ranks[r].taps.at("combine/partial_TD");
    for (Dim t = 0; t < 7; ++t) {
      if ((keys.col(0).array() == t).any()) continue;
      ++num_zero;
      EXPECT_TRUE(matrix_of<double>(tap.value).row(t).isZero(0));
      EXPECT_TRUE(matrix_of<double>(tap.magnitude).row(t).isZero(0));
    }
  }
  EXPECT_EQ(num_zero, 7U);
}

TEST(Evaluate, CarriesNanOnInItsOwnRowOnly) {
  const auto one = small_case("none", Values::kNormal);
  Trace observed = sound_trace(one);
  auto& tensor = observed.ranks[0].taps.at("experts/act_RF").tensor;
  Matrix<double> act_RF = matrix_of<double>(tensor);
  act_RF(3, 1) = std::nan("");
  tensor = tensor_of(act_RF);
  const auto out_RD = matrix_of<double>(evaluate_batch(one, observed).ranks[0].taps.at("experts/out_RD").value);
  for (Dim r = 0; r < out_RD.rows(); ++r) EXPECT_EQ(out_RD.row(r).array().isNaN().all(), r == 3) << r;
  EXPECT_EQ(out_RD.array().isNaN().count(), out_RD.cols());
}

TEST(Evaluate, SaysNothingAboutAStageWithoutItsInputs) {
  const auto one = small_case("ep=2", Values::kNormal);
  const std::vector<std::pair<std::string, std::vector<std::string>>> needed = {
      {"input/x_TD", {"0 input/x_TD", "0 router/logits_TE"}},   // the other rank knows the tokens too
      {"experts/in_RD", {"0 experts/in_RD"}},                   // it is the token
      {"router/ids_TK", {"0 router/scores_TK", "0 end_to_end"}},
      {"dispatch/rows_R3", {"0 experts/gate_up_RG", "0 experts/in_RD", "0 experts/out_RD", "0 combine/partial_TD"}},
      {"combine/partial_TD", {"0 combine/partial_TD", "0 output/y_TD", "1 output/y_TD"}},
      {"output/y_TD", {"0 output/y_TD"}}};
  const Trace sound = sound_trace(one);
  const Expected before = evaluate_batch(one, sound);
  for (const auto& [tap, lost] : needed) {
    Trace observed = sound;
    observed.ranks[0].taps.erase(tap);
    const Expected after = evaluate_batch(one, observed);
    EXPECT_THAT(changed_taps(before, after), testing::UnorderedElementsAreArray(lost)) << tap;
    EXPECT_FALSE(after.ranks[0].taps.contains(lost.front().substr(2))) << tap;
  }
}

TEST(Evaluate, SurvivesShapesDtypesAndPlacementsThatDoNotFit) {
  const auto one = small_case("tp=2", Values::kNormal);
  const Trace sound = sound_trace(one);
  for (const auto& [name, tapped] : sound.ranks[0].taps) {
    for (const base::Shape& shape : {base::Shape{}, base::Shape{3}, base::Shape{0, 0}, base::Shape{5, 1}, base::Shape{2, 2, 2}}) {
      Trace observed = sound;
      observed.ranks[0].taps.at(name).tensor = base::HostTensor(base::DType::kF32, shape);
      EXPECT_FALSE(evaluate_batch(one, observed).ranks[0].taps.contains(name)) << name << base::shape_text(shape);
    }
    for (const auto& placement : {model::shard(0), model::shard(1), model::shard(7), model::strided_shard(1, 5), model::strided_shard(1, 0),
                                  model::partial(), model::replicate()}) {
      Trace observed = sound;
      observed.ranks[0].taps.at(name).cuts = {{"tp", placement}};
      EXPECT_TRUE(evaluate_batch(one, observed).ranks[0].taps.contains("input/x_TD")) << name;
    }
  }
}

TEST(Evaluate, SurvivesMissingRanks) {
  const auto one = small_case("ep=2", Values::kNormal);
  Trace observed = sound_trace(one);
  observed.ranks[1].taps.clear();
  EXPECT_FALSE(evaluate_batch(one, observed).ranks[0].taps.contains("output/y_TD"));
  observed.ranks.pop_back();
  EXPECT_FALSE(evaluate_batch(one, observed).ranks[0].taps.contains("output/y_TD"));
  observed.ranks.clear();
  EXPECT_THAT(evaluate_batch(one, observed).ranks, IsEmpty());
}

}  // namespace
}  // namespace moecheck::reference
