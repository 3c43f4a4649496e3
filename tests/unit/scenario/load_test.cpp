#include "harness/scenario/load.h"

#include <gmock/gmock.h>

#include "tests/unit/scenario/folders.h"

namespace moecheck::scenario {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

base::Result<Scenario> load(std::string text) {
  auto document = parse_yaml("s.yaml", std::move(text));
  if (!document) return document.error();
  return scenario_of(std::move(*document), "s");
}

TEST(LoadScenario, ReadsEveryPartWithItsPlace) {
  const Scenario s = load(
                         "version: 1\n"
                         "description: a line\n"
                         "model: qwen3_moe\n"
                         "override: {experts: 8, renormalise: false}\n"
                         "tokens: {routing: idle_expert, values: normal}\n"
                         "matrix:\n"
                         "  impl: [ep_allreduce, tp_sharded]\n"
                         "  tokens: [[7, 5], 3]\n"
                         "exclude: [{impl: tp_sharded, mesh: \"ep=4\"}]\n"
                         "include: [{impl: ep_allreduce, checks: [a, b]}]\n"
                         "phases: [load, forward]\n"
                         "checks: all\n"
                         "xfail: [{dtype: bf16, reason: a known bug}]\n"
                         "tags: [smoke]\n")
                         .value();
  EXPECT_EQ(s.description, "a line");
  std::map<std::string, std::string> base;
  for (const KnobSetting& knob : s.base) base[knob.knob] = knob.text;
  EXPECT_EQ(base, (std::map<std::string, std::string>{{"model", "qwen3_moe"}, {"experts", "8"}, {"renormalise", "false"}, {"values", "normal"},
                                                      {"routing", "idle_expert"}, {"phases", "load,forward"}, {"checks", "all"}}));
  ASSERT_EQ(s.matrix.size(), 2U);
  EXPECT_EQ(s.matrix[1].name, "tokens");
  EXPECT_EQ(s.matrix[1].values[0].knobs.at(0).text, "7,5");
  EXPECT_EQ(s.matrix[1].values[1].knobs.at(0).text, "3");
  EXPECT_EQ(s.source.where(s.matrix[0].values[1].spot), "s.yaml:7:24");
  EXPECT_EQ(s.exclude.at(0).knobs.at(1).text, "ep=4");
  EXPECT_EQ(s.include.at(0).knobs.at(1).text, "a,b");
  EXPECT_EQ(s.xfail.at(0).reason, "a known bug");
  EXPECT_THAT(s.tags, ElementsAre("smoke"));
  EXPECT_EQ(s.source.where(s.model_spot), "s.yaml:3:8");
}

TEST(LoadScenario, AnUnknownKnobThatIsLikeNoneIsToldThemAll) {
  EXPECT_THAT(load("version: 1\ninclude: [{version: 1}]\n").error().text(),
              testing::StartsWith("s.yaml:2:12: unknown knob 'version'; known: impl, model, mesh, dtype,"));
}

TEST(LoadScenario, AcceptsAnEmptyXfailMap) { EXPECT_TRUE(load("version: 1\nxfail: {}\n").value().xfail.empty()); }

TEST(LoadScenario, PrintsTheWholeDiagnostic) {
  EXPECT_EQ(load("version: 1\nmatrix:\n  expets_backend: [eager]\n").error().text(),
            "s.yaml:3:3: unknown knob 'expets_backend'; did you mean 'experts_backend'?\n"
            "  3 |   expets_backend: [eager]\n"
            "    |   ^~~~~~~~~~~~~~");
}

struct Refused {
  const char* text;  // after "version: 1\n"
  const char* where;
  const char* why;
};

class RefusedScenario : public testing::TestWithParam<Refused> {};

TEST_P(RefusedScenario, SaysWhereAndWhy) {
  const auto loaded = load(std::string("version: 1\n") + GetParam().text);
  ASSERT_FALSE(loaded);
  EXPECT_EQ(loaded.error().code, base::ErrorCode::kUsage);
  EXPECT_EQ(loaded.error().where, GetParam().where);
  EXPECT_EQ(loaded.error().message.substr(0, loaded.error().message.find('\n')), GetParam().why);
}

INSTANTIATE_TEST_SUITE_P(
    Keys, RefusedScenario,
    testing::Values(Refused{"modle: x\n", "s.yaml:2:1", "unknown key 'modle'; did you mean 'model'?"},
                    Refused{"experts: 8\n", "s.yaml:2:1", "unknown key 'experts' here; 'experts' belongs under override: {experts: ...}"},
                    Refused{"per_rank: 8\n", "s.yaml:2:1", "unknown key 'per_rank' here; 'per_rank' belongs under tokens: {per_rank: ...}"},
                    Refused{"override: {dtype: bf16}\n", "s.yaml:2:12", "unknown key 'dtype' here; 'dtype' belongs at the top level"},
                    Refused{"override: {expert: 8}\n", "s.yaml:2:12", "unknown key 'expert'; did you mean 'experts'?"},
                    Refused{"tokens: {rooting: zipf}\n", "s.yaml:2:10", "unknown key 'rooting'; did you mean 'routing'?"},
                    Refused{"matrix: {per_rank: [1]}\n", "s.yaml:2:10", "unknown knob 'per_rank'; here tokens.per_rank is called 'tokens'"},
                    Refused{"exclude: [{dtpye: bf16}]\n", "s.yaml:2:12", "unknown knob 'dtpye'; did you mean 'dtype'?"},
                    Refused{"suite: [a]\n", "s.yaml:2:1", "this is a suite; a scenario is expected here"},
                    Refused{"seed: 1\nseed: 2\n", "s.yaml:3:1", "duplicate key 'seed'; it stands on line 2 already"},
                    Refused{"seed: 1\nmatrix: {seed: [2]}\n", "s.yaml:3:10", "seed is set by the matrix and on line 2; remove one"}));

INSTANTIATE_TEST_SUITE_P(
    Types, RefusedScenario,
    testing::Values(
        Refused{"seed: x\n", "s.yaml:2:7", "seed: expected a whole number in decimal digits, found the text 'x'"},
        Refused{"seed: 010\n", "s.yaml:2:7", "seed: the number 010 has leading zeros; write it in plain decimal"},
        Refused{"seed: 0x10\n", "s.yaml:2:7", "seed: expected a whole number in decimal digits, found the text '0x10'"},
        Refused{"seed: 1e3\n", "s.yaml:2:7", "seed: expected a whole number in decimal digits, found the text '1e3'"},
        Refused{"seed: 1_000\n", "s.yaml:2:7", "seed: expected a whole number in decimal digits, found the text '1_000'"},
        Refused{"seed: -1\n", "s.yaml:2:7", "seed: expected a number from 0 to 9223372036854775807, found -1"},
        Refused{"seed: \"7\"\n", "s.yaml:2:7", "seed: expected a whole number, found the text '7'; remove the quotes"},
        Refused{"seed: [1]\n", "s.yaml:2:7", "seed: expected a whole number, found a list"},
        Refused{"seed:\n", "s.yaml:2:1", "seed: expected a whole number, found nothing"},
        Refused{"override: {renormalise: no}\n", "s.yaml:2:25", "renormalise: expected true or false, found the text 'no'"},
        Refused{"override: {renormalise: \"true\"}\n", "s.yaml:2:25", "renormalise: expected true or false, found the text 'true'"},
        Refused{"override: {renormalise: 1}\n", "s.yaml:2:25", "renormalise: expected true or false, found the number 1"},
        Refused{"impl: true\n", "s.yaml:2:7", "impl: expected a name, found the boolean true; quote it if it is one"},
        Refused{"impl: 12\n", "s.yaml:2:7", "impl: expected a name, found the number 12; quote it if it is one"},
        Refused{"dtype: bf61\n", "s.yaml:2:8", "dtype: 'bf61' is not a value of dtype; did you mean 'bf16'?"},
        Refused{"mesh: {ep: 2}\n", "s.yaml:2:7", "mesh: expected a name, found a map"},
        Refused{"mesh: \"eq=2\"\n", "s.yaml:2:7", "mesh: unknown mesh dimension 'eq'; did you mean 'ep'?"},
        Refused{"tokens: {per_rank: [7, x]}\n", "s.yaml:2:24", "tokens: expected a whole number in decimal digits, found the text 'x'"},
        Refused{"tokens: {per_rank: []}\n", "s.yaml:2:20", "tokens: the list is empty; give one value at least"},
        Refused{"tokens: {per_rank: [[7]]}\n", "s.yaml:2:21", "tokens: expected a whole number, found a list"},
        Refused{"tokens: [7, 5]\n", "s.yaml:2:9", "expected a map of tokens knobs, found a list"},
        Refused{"checks: [\"a,b\"]\n", "s.yaml:2:10", "checks: an item may not have a comma; write a list"},
        Refused{"phases: [load, {train: 1}]\n", "s.yaml:2:16", "phases: expected a name, found a map"},
        Refused{"override: 7\n", "s.yaml:2:11", "expected a map of override knobs, found the number 7"}));

INSTANTIATE_TEST_SUITE_P(
    Parts, RefusedScenario,
    testing::Values(Refused{"matrix: {dtype: fp32}\n", "s.yaml:2:17", "expected a list of values of dtype, found the text 'fp32'"},
                    Refused{"matrix: {dtype: []}\n", "s.yaml:2:17", "dtype has no values, so that the matrix would have no case"},
                    Refused{"matrix: {dtype: [fp32, bf16, fp32]}\n", "s.yaml:2:30", "dtype lists 'fp32' twice"},
                    Refused{"matrix: [a]\n", "s.yaml:2:9", "expected a map of knobs, each with a list of values, found a list"},
                    Refused{"exclude: {dtype: fp32}\n", "s.yaml:2:10", "expected a list of maps of knobs, found a map"},
                    Refused{"exclude: [{}]\n", "s.yaml:2:11", "an entry of exclude names no knob"},
                    Refused{"include: [x]\n", "s.yaml:2:11", "expected a map of knobs, found the text 'x'"},
                    Refused{"xfail: {dtype: bf16}\n", "s.yaml:2:8", "xfail is {} or a list: [{knob: value, reason: text}]"},
                    Refused{"xfail: [{dtype: bf16}]\n", "s.yaml:2:9", "an xfail needs a reason: {knob: value, reason: text}"},
                    Refused{"xfail: [{dtype: bf16, reason: \"\"}]\n", "s.yaml:2:31", "reason is empty"},
                    Refused{"xfail: true\n", "s.yaml:2:8", "expected a list of {knob: value, reason: text}, found the boolean true"},
                    Refused{"tags: smoke\n", "s.yaml:2:7", "expected a list of tags, found the text 'smoke'"},
                    Refused{"tags: [a, a]\n", "s.yaml:2:11", "tag 'a' stands twice"},
                    Refused{"tags: [\"a b\"]\n", "s.yaml:2:8", "a tag is one word, found 'a b'"},
                    Refused{"description: [x]\n", "s.yaml:2:14", "description: expected text, found a list"}));

INSTANTIATE_TEST_SUITE_P(
    Bundles, RefusedScenario,
    testing::Values(
        Refused{"matrix: {dtpye: [fp32]}\n", "s.yaml:2:10", "unknown knob 'dtpye'; did you mean 'dtype'?"},
        Refused{"matrix: {dtpye: []}\n", "s.yaml:2:10", "unknown knob 'dtpye'; did you mean 'dtype'?"},
        Refused{"matrix: {layout: {impl: a}}\n", "s.yaml:2:18", "expected a list of maps of knobs, found a map"},
        Refused{"matrix: {dtype: [{dtype: fp32}]}\n", "s.yaml:2:10", "dtype is a knob; an axis of maps needs a name of its own"},
        Refused{"matrix: {layout: [{impl: a}, b]}\n", "s.yaml:2:30", "layout has maps of knobs and plain values; an axis has one kind"},
        Refused{"matrix: {dtype: [fp32, {impl: a}]}\n", "s.yaml:2:24", "dtype has maps of knobs and plain values; an axis has one kind"},
        Refused{"matrix: {layout: [{impl: a}, {}]}\n", "s.yaml:2:30", "a value of layout names no knob"},
        Refused{"matrix: {layout: [{impl: a, dtpye: b}]}\n", "s.yaml:2:29", "unknown knob 'dtpye'; did you mean 'dtype'?"},
        Refused{"matrix: {layout: [{impl: a, per_rank: 1}]}\n", "s.yaml:2:29", "unknown knob 'per_rank'; here tokens.per_rank is called 'tokens'"},
        Refused{"matrix: {layout: [{impl: a, dtype: b}]}\n", "s.yaml:2:36", "dtype: 'b' is not a value of dtype; known: fp32, bf16"},
        Refused{"matrix: {layout: [{impl: a, seed: 1}, {seed: 1, impl: a}]}\n", "s.yaml:2:39", "layout lists these knobs twice"},
        Refused{"matrix:\n  layout: [{impl: a, mesh: none}]\n  mesh: [none]\n", "s.yaml:4:3",
                "mesh is set by the axis layout already, on line 3; one axis sets a knob"},
        Refused{"matrix:\n  mesh: [none]\n  layout: [{impl: a}, {impl: b, mesh: none}]\n", "s.yaml:4:33",
                "mesh is set by the axis mesh already, on line 3; one axis sets a knob"},
        Refused{"matrix:\n  one: [{impl: a}]\n  two: [{seed: 1}, {impl: b}]\n", "s.yaml:4:21",
                "impl is set by the axis one already, on line 3; one axis sets a knob"},
        Refused{"impl: b\nmatrix: {layout: [{seed: 1}, {impl: a}]}\n", "s.yaml:3:31", "impl is set by the matrix and on line 2; remove one"}));

INSTANTIATE_TEST_SUITE_P(
    Covers, RefusedScenario,
    testing::Values(Refused{"cover: 2\n", "s.yaml:2:8", "cover chooses among the cases of a matrix; there is none"},
                    Refused{"cover: 1\nmatrix: {seed: [1], dtype: [fp32]}\n", "s.yaml:2:8", "cover: expected a number from 2 to 4, found 1"},
                    Refused{"cover: 5\nmatrix: {seed: [1], dtype: [fp32]}\n", "s.yaml:2:8", "cover: expected a number from 2 to 4, found 5"},
                    Refused{"cover: two\nmatrix: {seed: [1], dtype: [fp32]}\n", "s.yaml:2:8",
                            "cover: expected a whole number in decimal digits, found the text 'two'"},
                    Refused{"cover:\nmatrix: {seed: [1], dtype: [fp32]}\n", "s.yaml:2:1", "cover: expected a whole number, found nothing"},
                    Refused{"matrix: {seed: [1], dtype: [fp32]}\ncover: 3\n", "s.yaml:3:8", "cover: 3 needs as many axes; the matrix has 2"}));

TEST(LoadScenario, ReadsBundlesAndCoverWithTheirPlaces) {
  const Scenario s = load(
                         "version: 1\n"
                         "cover: 2\n"
                         "matrix:\n"
                         "  layout:\n"
                         "    - {impl: ep_allreduce, tokens: [7, 5]}\n"
                         "    - {impl: tp_sharded, model: mixtral}\n"
                         "  dtype: [fp32]\n")
                         .value();
  EXPECT_EQ(s.cover.value().strength, 2U);
  EXPECT_EQ(s.source.where(s.cover->spot), "s.yaml:2:8");
  ASSERT_EQ(s.matrix.size(), 2U);
  EXPECT_EQ(s.matrix[0].name, "layout");
  EXPECT_EQ(s.matrix[0].values.at(0).knobs.at(1).knob, "tokens");
  EXPECT_EQ(s.matrix[0].values.at(0).knobs.at(1).text, "7,5");
  EXPECT_EQ(s.source.where(s.matrix[0].values.at(1).spot), "s.yaml:6:7");
  EXPECT_EQ(s.source.where(s.model_spot), "s.yaml:6:26");
}

TEST(LoadScenario, NeedsAKnownVersion) {
  EXPECT_THAT(load("model: x\n").error().text(), testing::StartsWith("s.yaml:1:1: version is missing; begin the file with `version: 1`\n"));
  EXPECT_THAT(load("nonsense: x\nversion: 2\n").error().text(), testing::StartsWith("s.yaml:2:10: version 2 is not known"));
  EXPECT_THAT(load("version: \"1\"\n").error().text(), HasSubstr("remove the quotes"));
  EXPECT_THAT(load("version: 1.0\n").error().text(), HasSubstr("expected a whole number"));
  EXPECT_THAT(load("- a\n").error().text(), testing::StartsWith("s.yaml:1:1: expected a map of scenario keys, found a list"));
}

TEST(ScenarioName, IsThePathBelowTheFolderWithoutSuffix) {
  EXPECT_EQ(scenario_name("scenarios/cases/ep/tiny.yaml", "scenarios"), "cases/ep/tiny");
  EXPECT_EQ(scenario_name("./scenarios/../scenarios/cases/tiny.yaml", "scenarios/"), "cases/tiny");
  EXPECT_EQ(scenario_name("elsewhere/mine.yaml", "scenarios"), "elsewhere/mine");
}

}  // namespace
}  // namespace moecheck::scenario
