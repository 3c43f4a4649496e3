// Bundles and cover from the file to the cases.
#include <set>

#include <gmock/gmock.h>

#include "harness/cases/fields.h"
#include "harness/scenario/expand.h"
#include "harness/scenario/load.h"
#include "harness/scenario/suite.h"
#include "tests/unit/scenario/folders.h"

namespace moecheck::scenario {
namespace {

using cases::Case;
using testing::ElementsAre;
using testing::StartsWith;

constexpr const char* kHead = "version: 1\nmodel: mixtral\n";
constexpr const char* kLayouts = "  layout: [{impl: ep_allreduce, mesh: \"ep=2\"}, {impl: tp_sharded, mesh: \"tp=2\"}]\n";

base::Result<std::vector<Case>> expanded(const std::string& text, const cases::KnobValues& set = {}) {
  auto document = parse_yaml("s.yaml", text);
  if (!document) return document.error();
  auto scenario = scenario_of(std::move(*document), "cases/s");
  if (!scenario) return scenario.error();
  return expand(*scenario, set, family_loader(models_dir()));
}

std::vector<std::string> ids(const std::string& text, const cases::KnobValues& set = {}) {
  const auto all = expanded(text, set);
  EXPECT_TRUE(all) << all.error().text();
  std::vector<std::string> out;
  if (!all) return out;
  for (const Case& one : *all) out.push_back(cases::case_id(one, family_loader(models_dir())));
  return out;
}

std::string refusal(const std::string& text, const cases::KnobValues& set = {}) {
  const auto all = expanded(text, set);
  if (all) return "was accepted";
  return all.error().text().substr(0, all.error().text().find('\n'));
}

// The values that the cases have together for some knobs.
std::set<std::vector<std::string>> seen(const std::vector<Case>& all, const std::vector<std::string>& knobs) {
  std::set<std::vector<std::string>> seen;
  for (const Case& one : all) {
    std::vector<std::string> values;
    for (const std::string& knob : knobs) values.push_back(cases::find_field(knob)->get(one));
    seen.insert(values);
  }
  return seen;
}

TEST(Bundle, SetsItsKnobsTogether) {
  EXPECT_THAT(ids(std::string(kHead) + "matrix:\n" + kLayouts + "  dtype: [fp32, bf16]\n"),
              ElementsAre("impl=ep_allreduce model=mixtral mesh=ep=2 dtype=fp32", "impl=ep_allreduce model=mixtral mesh=ep=2 dtype=bf16",
                          "impl=tp_sharded model=mixtral mesh=tp=2 dtype=fp32", "impl=tp_sharded model=mixtral mesh=tp=2 dtype=bf16"));
}

TEST(Bundle, AKnobThatAValueLeavesOutHasItsDefault) {
  EXPECT_THAT(ids(std::string(kHead) + "impl: ep_allreduce\nmatrix: {size: [{tokens: [6, 0], dtype: bf16}, {dtype: fp32}]}\n"),
              ElementsAre("impl=ep_allreduce model=mixtral mesh=none dtype=bf16 tokens=6,0", "impl=ep_allreduce model=mixtral mesh=none dtype=fp32"));
}

TEST(Bundle, ExcludeIncludeAndXfailMatchOnItsKnobs) {
  const auto all = expanded(std::string(kHead) + "matrix:\n" + kLayouts +
                            "  dtype: [fp32, bf16]\n"
                            "exclude: [{impl: tp_sharded, dtype: bf16}]\n"
                            "include: [{impl: tp_sharded, mesh: \"tp=4\"}]\n"
                            "xfail: [{mesh: \"tp=2\", reason: two}]\n")
                       .value();
  EXPECT_EQ(seen(all, {"mesh", "dtype", "impl"}), (std::set<std::vector<std::string>>{{"ep=2", "fp32", "ep_allreduce"},
                                                                                      {"ep=2", "bf16", "ep_allreduce"},
                                                                                      {"tp=2", "fp32", "tp_sharded"},
                                                                                      {"tp=4", "fp32", "tp_sharded"}}));
  EXPECT_EQ(all.at(2).xfail_reason, "two");
  EXPECT_EQ(all.at(3).xfail_reason, "");
}

TEST(Bundle, AKnobThatMakesNoSenseStandsAtItsPlace) {
  EXPECT_THAT(refusal(std::string(kHead) + "matrix:\n  layout: [{impl: ep_allreduce, top_k: 13}]\n"),
              StartsWith("s.yaml:4:40: top_k=13 is more than experts=12"));
}

TEST(Bundle, OverlappingValuesMakeACaseTwice) {
  EXPECT_THAT(refusal(std::string(kHead) + "matrix: {layout: [{impl: a}, {impl: a, mesh: none}]}\n"),
              StartsWith("s.yaml:2:8: the scenario has this case twice: impl=a"));
}

TEST(Bundle, AFamilyThatIsSetByOneStandsThere) {
  EXPECT_THAT(refusal("version: 1\nmatrix: {size: [{model: mixtral}, {model: qwen3_moe}]}\n"), StartsWith("s.yaml:2:18: impl is missing"));
}

constexpr const char* kFourAxes =
    "cover: 2\n"
    "matrix:\n"
    "  layout: [{impl: ep_allreduce, mesh: \"ep=2\"}, {impl: tp_sharded, mesh: \"tp=2\"}, {impl: ep_allreduce, mesh: \"ep=3\"}]\n"
    "  dtype: [fp32, bf16]\n"
    "  seed: [1, 2, 3]\n"
    "  routing: [natural, ties, zipf]\n";

TEST(Cover, HasEveryPairInFewCases) {
  const auto all = expanded(std::string(kHead) + kFourAxes).value();
  EXPECT_LE(all.size(), 13U);
  EXPECT_EQ(seen(all, {"mesh", "dtype"}).size(), 6U);
  EXPECT_EQ(seen(all, {"mesh", "seed"}).size(), 9U);
  EXPECT_EQ(seen(all, {"mesh", "routing"}).size(), 9U);
  EXPECT_EQ(seen(all, {"dtype", "seed"}).size(), 6U);
  EXPECT_EQ(seen(all, {"dtype", "routing"}).size(), 6U);
  EXPECT_EQ(seen(all, {"seed", "routing"}).size(), 9U);
}

TEST(Cover, AsStrongAsThereAreAxesIsTheProduct) {
  const std::string matrix = std::string("matrix:\n") + kLayouts + "  dtype: [fp32, bf16]\n";
  EXPECT_EQ(ids(kHead + ("cover: 2\n" + matrix)), ids(kHead + matrix));
}

TEST(Cover, KeepsTheOrderOfTheMatrix) {
  const std::string matrix = std::string(kFourAxes).substr(std::string("cover: 2\n").size());
  const auto product = ids(kHead + matrix);
  std::size_t at = 0;
  for (const std::string& id : ids(std::string(kHead) + kFourAxes)) {
    const auto found = std::find(product.begin() + static_cast<std::ptrdiff_t>(at), product.end(), id);
    ASSERT_NE(found, product.end()) << id;
    at = static_cast<std::size_t>(found - product.begin()) + 1;
  }
  EXPECT_GT(at, 0U);
}

TEST(Cover, ExcludeWorksBeforeIt) {
  const auto all = expanded(std::string(kHead) + kFourAxes + "exclude: [{mesh: \"ep=3\", dtype: bf16}, {impl: tp_sharded, routing: ties}]\n").value();
  const auto layouts = seen(all, {"mesh", "dtype"});
  EXPECT_EQ(layouts.size(), 5U);
  EXPECT_FALSE(layouts.contains({"ep=3", "bf16"}));
  EXPECT_EQ(seen(all, {"impl", "routing"}).size(), 5U);
  EXPECT_EQ(seen(all, {"mesh", "seed"}).size(), 9U);
}

TEST(Cover, AStaleExcludeIsStillAnError) {
  EXPECT_EQ(refusal(std::string(kHead) + kFourAxes + "exclude: [{seed: 4}]\n"),
            "s.yaml:9:11: this entry of exclude matches no case of the matrix; remove or correct it");
}

TEST(Cover, LeavesOutWhatMakesNoSense) {
  const auto all = expanded(std::string(kHead) +
                            "impl: ep_allreduce\ncover: 2\nmatrix: {top_k: [12, 8, 2], experts: [12, 10, 6], dtype: [fp32, bf16]}\n")
                       .value();
  EXPECT_EQ(seen(all, {"top_k", "experts"}), (std::set<std::vector<std::string>>{{"12", "12"}, {"8", "12"}, {"8", "10"}, {"2", "12"}, {"2", "10"}, {"2", "6"}}));
  EXPECT_EQ(seen(all, {"top_k", "dtype"}).size(), 6U);
}

TEST(Cover, AValueThatFitsNowhereIsAnErrorAtItsPlace) {
  EXPECT_EQ(refusal(std::string(kHead) + "impl: ep_allreduce\ncover: 2\nmatrix: {dtype: [fp32, bf16], top_k: [2, 13], seed: [1, 2]}\n"),
            "s.yaml:5:42: this value of top_k makes no sense with any others of the matrix; with the first ones: top_k=13 is more than "
            "experts=12; use at most 12");
  EXPECT_THAT(refusal(std::string(kHead) + "cover: 2\nmatrix: {dtype: [fp32, bf16], layout: [{impl: a}, {impl: a, top_k: 13}], seed: [1, 2]}\n"),
              StartsWith("s.yaml:4:51: this value of layout makes no sense with any others of the matrix; with the first ones: top_k=13 is more"));
}

TEST(Cover, AValueThatExcludeRemovesWhollyIsNoError) {
  const auto all = expanded(std::string(kHead) + "impl: ep_allreduce\ncover: 2\nexclude: [{top_k: 13}]\n"
                                                 "matrix: {dtype: [fp32, bf16], top_k: [2, 13], seed: [1, 2]}\n").value();
  EXPECT_EQ(seen(all, {"top_k"}), (std::set<std::vector<std::string>>{{"2"}}));
}

TEST(Cover, WithoutAnyCandidateTheFirstErrorStandsAtItsKnob) {
  EXPECT_THAT(refusal("version: 1\nimpl: a\nmodel: mixtrla\ncover: 2\nmatrix: {dtype: [fp32, bf16], seed: [1, 2]}\n"),
              StartsWith("s.yaml:3:8: no model family 'mixtrla'"));
  EXPECT_THAT(refusal("version: 1\nmodel: mixtral\ncover: 2\nmatrix: {dtype: [fp32, bf16], seed: [1, 2]}\n"), StartsWith("s.yaml:2:8: impl is missing"));
}

TEST(Cover, AFamilyThatCannotBeReadIsAnError) {
  auto document = parse_yaml("s.yaml", "version: 1\nimpl: a\ncover: 2\nmatrix: {model: [mixtral, broken], dtype: [fp32, bf16]}\n").value();
  const auto scenario = scenario_of(std::move(document), "s").value();
  const auto real = family_loader(models_dir());
  const auto all = expand(scenario, {}, [&](std::string_view family) -> base::Result<model::ModelSpec> {
    if (family == "broken") return base::Error{base::ErrorCode::kIo, "cannot read", "broken.yaml"};
    return real(family);
  });
  ASSERT_FALSE(all);
  EXPECT_EQ(all.error().code, base::ErrorCode::kIo);
  EXPECT_THAT(all.error().text(), StartsWith("s.yaml:4:27: broken.yaml: cannot read"));
}

TEST(Cover, IncludeComesAfterAndIsNoCandidate) {
  const std::string text = std::string(kHead) + kFourAxes;
  auto expected = ids(text);
  expected.push_back("impl=mine model=mixtral mesh=none dtype=fp32 seed=9");
  EXPECT_EQ(ids(text + "include: [{impl: mine, seed: 9}]\n"), expected);
}

TEST(Cover, SetComesAfterAndMergesWhatBecomesTheSame) {
  const auto plain = expanded(std::string(kHead) + kFourAxes).value();
  const auto set = expanded(std::string(kHead) + kFourAxes, {{"seed", "7"}}).value();
  EXPECT_EQ(seen(set, {"mesh", "dtype", "routing"}), seen(plain, {"mesh", "dtype", "routing"}));
  EXPECT_EQ(seen(set, {"seed"}), (std::set<std::vector<std::string>>{{"7"}}));
  EXPECT_THAT(refusal(std::string(kHead) + kFourAxes, {{"top_k", "13"}}), StartsWith("--set top_k: top_k=13 is more than experts=12"));
}

TEST(Cover, SetMayNameTheImplementation) {
  const std::string text = std::string(kHead) + "cover: 2\nmatrix: {dtype: [fp32, bf16], seed: [1, 2]}\n";
  EXPECT_EQ(expanded(text, {{"impl", "mine"}}).value().size(), 4U);
}

TEST(Cover, AnXfailForACaseThatItPassedOverIsNotStale) {
  const std::string text = std::string(kHead) + kFourAxes;
  const auto all = expanded(text).value();
  std::size_t num_accepted = 0;
  for (const char* dtype : {"fp32", "bf16"})
    for (const char* seed : {"1", "2", "3"})
      for (const char* routing : {"natural", "ties", "zipf"})
        num_accepted += ids(text + "xfail: [{mesh: \"ep=2\", dtype: " + dtype + ", seed: " + seed + ", routing: " + routing + ", reason: r}]\n").size() ==
                        all.size();
  EXPECT_EQ(num_accepted, 18U);
  EXPECT_EQ(refusal(text + "xfail: [{seed: 4, reason: r}]\n"), "s.yaml:9:9: this entry of xfail matches no case; remove or correct it");
}

std::string seeds(int num) {
  std::string list = "[1";
  for (int i = 2; i <= num; ++i) list += ", " + std::to_string(i);
  return list + "]";
}

TEST(Cover, ChoosesAmongMoreCombinationsThanAScenarioMayHaveCases) {
  const std::string text = std::string(kHead) + "impl: a\ncover: 2\nmatrix:\n  seed: " + seeds(142) + "\n  d_ff: " + seeds(142) + "\n";
  // Two axes of 142 values have more pairs than a scenario may have cases.
  EXPECT_EQ(refusal(text), "s.yaml:4:8: cover: 2 takes 20164 cases, more than 20000; split the scenario");
  const std::string fewer = std::string(kHead) + "impl: a\ncover: 2\nmatrix:\n  seed: " + seeds(10) + "\n  d_ff: " + seeds(20) +
                            "\n  d_model: " + seeds(60) + "\n  dtype: [fp32, bf16]\n";
  const auto all = expanded(fewer).value();
  EXPECT_GE(all.size(), 1200U);
  EXPECT_LE(all.size(), 1500U);
}

TEST(Cover, TooManyCombinationsAreRefusedBeforeTheyAreMade) {
  EXPECT_EQ(refusal(std::string(kHead) + "impl: a\ncover: 2\nmatrix:\n  seed: " + seeds(500) + "\n  d_ff: " + seeds(500) + "\n"),
            "s.yaml:7:3: the matrix has more than 200000 combinations; split the scenario");
}

class CoverInASuite : public FolderTest {};

TEST_F(CoverInASuite, IsAScenarioAsAnyOther) {
  write("cases/few.yaml", std::string(kHead) + kFourAxes);
  write("suites/nightly.yaml", "version: 1\nsuite: [cases/few]\nset: {experts_backend: batched_mm}\ntags: [nightly]\n");
  const auto all = load_cases("nightly", {}, folder_, family_loader(models_dir())).value();
  EXPECT_EQ(all.size(), ids(std::string(kHead) + kFourAxes).size());
  EXPECT_THAT(all.at(0).tags, ElementsAre("nightly"));
  EXPECT_EQ(all.at(0).experts_backend, "batched_mm");
}

}  // namespace
}  // namespace moecheck::scenario
