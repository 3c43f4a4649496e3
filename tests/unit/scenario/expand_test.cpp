#include "harness/scenario/expand.h"

#include <gmock/gmock.h>

#include "harness/cases/fields.h"
#include "harness/scenario/load.h"
#include "tests/unit/scenario/folders.h"

namespace moecheck::scenario {
namespace {

using cases::Case;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::StartsWith;

constexpr const char* kHead = "version: 1\nimpl: ep_allreduce\nmodel: mixtral\n";

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
  // Without what kHead fixes.
  for (const Case& one : *all)
    out.push_back(cases::case_id(one, family_loader(models_dir())).substr(std::string("impl=ep_allreduce model=mixtral ").size()));
  return out;
}

std::string refusal(const std::string& text, const cases::KnobValues& set = {}) {
  const auto all = expanded(text, set);
  if (all) return "was accepted";
  return all.error().text().substr(0, all.error().text().find('\n'));
}

TEST(Expand, WithoutMatrixTheBaseIsOneCase) { EXPECT_THAT(ids(kHead), ElementsAre("mesh=none dtype=fp32")); }

TEST(Expand, MakesTheProductWithTheLastAxisFastest) {
  EXPECT_THAT(ids(std::string(kHead) + "matrix: {mesh: [none, \"ep=2\"], dtype: [fp32, bf16]}\n"),
              ElementsAre("mesh=none dtype=fp32", "mesh=none dtype=bf16", "mesh=ep=2 dtype=fp32", "mesh=ep=2 dtype=bf16"));
}

TEST(Expand, ListKnobsTakeListsInTheMatrix) {
  EXPECT_THAT(ids(std::string(kHead) + "matrix: {tokens: [[6, 0], 1]}\n"),
              ElementsAre("mesh=none dtype=fp32 tokens=6,0", "mesh=none dtype=fp32 tokens=1"));
}

TEST(Expand, ExcludeRemovesWhatEqualsAllItsKnobs) {
  EXPECT_THAT(ids(std::string(kHead) + "matrix: {mesh: [none, \"ep=2\"], dtype: [fp32, bf16]}\nexclude: [{mesh: \"ep=2\", dtype: bf16}]\n"),
              ElementsAre("mesh=none dtype=fp32", "mesh=none dtype=bf16", "mesh=ep=2 dtype=fp32"));
}

TEST(Expand, ExcludeSeesDefaultsAndTheFamilysValues) {
  EXPECT_THAT(ids(std::string(kHead) + "matrix: {dtype: [fp32, bf16]}\nexclude: [{top_k: 2, seed: 1, softmax: before_topk, dtype: bf16}]\n"),
              ElementsAre("mesh=none dtype=fp32"));
}

TEST(Expand, ExcludeRemovesWhatMakesNoSense) {
  EXPECT_THAT(ids(std::string(kHead) + "matrix: {top_k: [3, 13]}\nexclude: [{top_k: 13}]\n"), ElementsAre("mesh=none dtype=fp32 top_k=3"));
}

TEST(Expand, OverlappingExcludesAreNotStale) {
  EXPECT_THAT(ids(std::string(kHead) + "matrix: {mesh: [none, \"ep=2\"], dtype: [fp32, bf16]}\nexclude: [{mesh: \"ep=2\"}, {dtype: bf16}]\n"),
              ElementsAre("mesh=none dtype=fp32"));
}

TEST(Expand, ExcludeThatMatchesNothingIsAnError) {
  EXPECT_EQ(refusal(std::string(kHead) + "matrix: {dtype: [fp32]}\nexclude: [{dtype: bf16}]\n"),
            "s.yaml:5:11: this entry of exclude matches no case of the matrix; remove or correct it");
}

TEST(Expand, IncludeComesAfterExcludeOnTopOfTheBase) {
  EXPECT_THAT(ids(std::string(kHead) + "seed: 4\nmatrix: {dtype: [fp32, bf16]}\nexclude: [{dtype: bf16}]\ninclude: [{dtype: bf16, mesh: \"ep=2\"}]\n"),
              ElementsAre("mesh=none dtype=fp32 seed=4", "mesh=ep=2 dtype=bf16 seed=4"));
}

TEST(Expand, IncludeReplacesABaseKnob) {
  EXPECT_THAT(ids(std::string(kHead) + "seed: 4\nmatrix: {dtype: [fp32]}\ninclude: [{seed: 5}]\n"),
              ElementsAre("mesh=none dtype=fp32 seed=4", "mesh=none dtype=fp32 seed=5"));
}

TEST(Expand, IncludeWithoutMatrixLeavesOutTheBareBase) {
  EXPECT_THAT(ids(std::string(kHead) + "include: [{seed: 5}]\n"), ElementsAre("mesh=none dtype=fp32 seed=5"));
}

TEST(Expand, SetComesLastAndMergesWhatBecomesTheSame) {
  const std::string text = std::string(kHead) + "matrix: {dtype: [fp32, bf16]}\nexclude: [{dtype: bf16}]\ninclude: [{dtype: bf16, mesh: \"ep=2\"}]\n";
  EXPECT_THAT(ids(text, {{"mesh", "ep=3"}}), ElementsAre("mesh=ep=3 dtype=fp32", "mesh=ep=3 dtype=bf16"));
  EXPECT_THAT(ids(text, {{"mesh", "ep=3"}, {"dtype", "bf16"}}), ElementsAre("mesh=ep=3 dtype=bf16"));
}

TEST(Expand, GivesEachCaseNameAndTags) {
  const auto all = expanded(std::string(kHead) + "tags: [smoke, ep]\n").value();
  EXPECT_EQ(all[0].scenario, "cases/s");
  EXPECT_THAT(all[0].tags, ElementsAre("smoke", "ep"));
  EXPECT_THAT(all[0].xfail_reason, IsEmpty());
}

TEST(Expand, XfailMarksTheCasesItMatches) {
  const auto all = expanded(std::string(kHead) + "matrix: {dtype: [fp32, bf16]}\nxfail: [{dtype: bf16, reason: one}, {reason: rest}]\n").value();
  EXPECT_EQ(all[0].xfail_reason, "rest");
  EXPECT_EQ(all[1].xfail_reason, "one");
}

TEST(Expand, XfailThatMatchesNothingIsAnErrorUnlessSetHidesIt) {
  const std::string text = std::string(kHead) + "xfail: [{dtype: bf16, reason: one}]\n";
  EXPECT_EQ(refusal(text), "s.yaml:4:9: this entry of xfail matches no case; remove or correct it");
  EXPECT_THAT(ids(text, {{"seed", "2"}}), ElementsAre("mesh=none dtype=fp32 seed=2"));
}

TEST(Expand, TheSameCaseTwiceIsAnError) {
  EXPECT_EQ(refusal(std::string(kHead) + "matrix: {dtype: [fp32]}\ninclude: [{dtype: fp32}]\n"),
            "s.yaml:5:11: the scenario has this case twice: impl=ep_allreduce model=mixtral mesh=none dtype=fp32");
}

TEST(Expand, NoCaseIsAnError) {
  EXPECT_THAT(refusal(std::string(kHead) + "matrix: {dtype: [fp32]}\nexclude: [{dtype: fp32}]\n"), HasSubstr("the scenario has no case"));
}

TEST(Expand, TooManyCasesAreRefusedBeforeTheyAreMade) {
  std::string seeds = "[1";
  for (int i = 2; i <= 200; ++i) seeds += ", " + std::to_string(i);
  const std::string text = std::string(kHead) + "matrix:\n  seed: " + seeds + "]\n  d_ff: " + seeds + "]\n";
  EXPECT_EQ(refusal(text), "s.yaml:6:3: the matrix has more than 20000 cases; split the scenario");
}

struct Blamed {
  const char* text;  // after kHead
  const char* line;
};

class BlamedKnob : public testing::TestWithParam<Blamed> {};

TEST_P(BlamedKnob, StandsAtItsPlaceInTheFile) { EXPECT_THAT(refusal(std::string(kHead) + GetParam().text), StartsWith(GetParam().line)); }

INSTANTIATE_TEST_SUITE_P(
    Expand, BlamedKnob,
    testing::Values(Blamed{"override: {top_k: 13}\n", "s.yaml:4:19: top_k=13 is more than experts=12; use at most 12"},
                    Blamed{"matrix: {top_k: [2, 13]}\n", "s.yaml:4:21: top_k=13 is more than"},
                    Blamed{"override: {experts: 9}\nmatrix: {top_k: [9, 10]}\n", "s.yaml:5:21: top_k=10 is more than experts=9"},
                    Blamed{"mesh: \"ep=2\"\ninclude:\n  - {dtype: bf16}\n  - {top_k: 13}\n", "s.yaml:7:13: top_k=13 is more than"},
                    Blamed{"override: {top_k: 3}\ntokens: {values: exact}\n", "s.yaml:5:18: values=exact needs top_k=1, 2, 4 or 8"},
                    Blamed{"override: {d_model: 12}\ntokens: {routing: zipf}\n", "s.yaml:4:21: designed routing"},
                    // The knob to blame has the family's value: the place of `model` stands for it.
                    Blamed{"override: {experts: 50}\ntokens: {routing: zipf}\n", "s.yaml:3:8: designed routing"}));

TEST(Expand, UnknownFamilyStandsAtModel) {
  EXPECT_THAT(refusal("version: 1\nimpl: ep_allreduce\nmatrix: {model: [mixtral, mixtrla]}\n"), StartsWith("s.yaml:3:27: no model family 'mixtrla'"));
}

TEST(Expand, MissingImplementationStandsAtTheModel) {
  EXPECT_THAT(refusal("version: 1\nmodel: mixtral\n"), StartsWith("s.yaml:2:8: impl is missing"));
  EXPECT_THAT(refusal("version: 1\n"), StartsWith("s.yaml:1:1: impl is missing"));
}

TEST(Expand, ErrorsOfSetNameTheOption) {
  EXPECT_THAT(refusal(kHead, {{"top_k", "13"}}), StartsWith("--set top_k: top_k=13 is more than experts=12"));
  EXPECT_THAT(refusal(kHead, {{"dtype", "bf61"}}), StartsWith("--set dtype: dtype: 'bf61' is not a value of dtype; did you mean 'bf16'?"));
  EXPECT_THAT(refusal(kHead, {{"dtpye", "bf16"}}), StartsWith("--set dtpye: unknown knob 'dtpye'; did you mean 'dtype'?"));
}

TEST(Expand, PrintsTheWholeDiagnostic) {
  EXPECT_EQ(expanded(std::string(kHead) + "override: {top_k: 13}  # more\n").error().text(),
            "s.yaml:4:19: top_k=13 is more than experts=12; use at most 12\n"
            "  4 | override: {top_k: 13}  # more\n"
            "    |                   ^~");
}

}  // namespace
}  // namespace moecheck::scenario
