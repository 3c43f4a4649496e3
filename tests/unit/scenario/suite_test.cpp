#include "harness/scenario/suite.h"

#include <gmock/gmock.h>

#include "harness/scenario/load.h"
#include "tests/unit/scenario/folders.h"

namespace moecheck::scenario {
namespace {

using cases::Case;
using testing::ElementsAre;
using testing::HasSubstr;

// A scenarios folder with cases/a/{one,two}.yaml and cases/b/three.yaml, seeds 1, 2 and 3.
class SuiteTest : public FolderTest {
 protected:
  void SetUp() override {
    FolderTest::SetUp();
    write("cases/a/one.yaml", scenario(1));
    write("cases/a/two.yaml", scenario(2));
    write("cases/b/three.yaml", scenario(3));
    write("models/not_a_scenario.yaml", "x: 1\n");
  }

  static std::string scenario(int seed) {
    return "version: 1\nimpl: ep_allreduce\nmodel: mixtral\nseed: " + std::to_string(seed) + "\ntags: [t" + std::to_string(seed) + "]\n";
  }

  base::Result<std::vector<Case>> load(const std::string& path, const cases::KnobValues& set = {}) {
    return load_cases(path, set, folder_, family_loader(models_dir()));
  }

  std::vector<std::string> names(const std::string& path) {
    std::vector<std::string> out;
    const auto all = load(path);
    EXPECT_TRUE(all) << all.error().text();
    for (const Case& one : *all) out.push_back(one.scenario);
    return out;
  }

  base::Error refusal(const std::string& suite) {
    const auto path = write("suites/s.yaml", suite);
    auto all = load(path.string());
    if (all) return {base::ErrorCode::kIo, "was accepted", ""};
    base::Error error = all.error();
    if (error.where.starts_with(path.string())) error.where = "s.yaml" + error.where.substr(path.string().size());
    return error;
  }
};

TEST_F(SuiteTest, ListsPathsAndGlobsInOrder) {
  write("suites/s.yaml", "version: 1\ndescription: d\nsuite: [cases/b/three, cases/a/*.yaml, cases/a/one.yaml]\n");
  EXPECT_THAT(names("s"), ElementsAre("cases/b/three", "cases/a/one", "cases/a/two"));
}

TEST_F(SuiteTest, AddsItsTagsToThoseOfTheScenario) {
  write("suites/s.yaml", "version: 1\nsuite: [cases/a/one]\ntags: [smoke, t1]\n");
  EXPECT_THAT(load("s").value()[0].tags, ElementsAre("t1", "smoke"));
}

TEST_F(SuiteTest, SetsKnobsUnlessTheCommandLineDoes) {
  write("suites/s.yaml", "version: 1\nsuite: [cases/a/one]\nset: {dtype: bf16, mesh: \"ep=2\"}\n");
  const auto all = load("s", {{"mesh", "ep=3"}}).value();
  EXPECT_EQ(all[0].problem.dtype, base::DType::kBF16);
  EXPECT_EQ(all[0].problem.mesh.text(), "ep=3");
}

TEST_F(SuiteTest, CoversMoreAxesAtATimeThanItsScenariosDo) {
  write("cases/c/cover.yaml", "version: 1\nimpl: ep_allreduce\nmodel: mixtral\ncover: 2\nmatrix:\n  seed: [1, 2]\n  dtype: [fp32, bf16]\n  routing: [natural, zipf]\n");
  write("suites/two.yaml", "version: 1\nsuite: [cases/c/cover, cases/a/one]\n");
  write("suites/three.yaml", "version: 1\nsuite: [cases/c/cover, cases/a/one]\ncover: 3\n");
  EXPECT_EQ(load("two").value().size(), 4U) << "the case of the one that does not cover is among them";
  EXPECT_EQ(load("three").value().size(), 8U);
  EXPECT_THAT(refusal("version: 1\nsuite: [cases/a/one]\ncover: 9\n").message, HasSubstr("expected a number from 2 to 4, found 9"));
}

TEST_F(SuiteTest, ACaseOfSeveralScenariosIsKeptOnce) {
  write("cases/a/one_again.yaml", scenario(1));
  EXPECT_THAT(names((folder_ / "cases/a").string()), ElementsAre("cases/a/one", "cases/a/two"));
}

TEST_F(SuiteTest, AFolderMeansAllScenariosBelowIt) {
  write("suites/s.yaml", "version: 1\nsuite: [cases/a/one]\n");
  EXPECT_THAT(names(folder_.string()), ElementsAre("cases/a/one", "cases/a/two", "cases/b/three"));
}

TEST_F(SuiteTest, APathMayBeRelativeToTheScenariosAndWithoutSuffix) {
  EXPECT_THAT(names("cases/b/three"), ElementsAre("cases/b/three"));
  EXPECT_THAT(names("cases/b/three.yaml"), ElementsAre("cases/b/three"));
  EXPECT_THAT(names("cases/a"), ElementsAre("cases/a/one", "cases/a/two"));
}

TEST_F(SuiteTest, AMissingPathNamesTheNearest) {
  write("suites/smoke.yaml", "version: 1\nsuite: [cases/a/one]\n");
  const auto suite = load("smoek").error();
  EXPECT_EQ(suite.code, base::ErrorCode::kUsage);
  EXPECT_EQ(suite.where, "smoek");
  EXPECT_THAT(suite.message, HasSubstr("did you mean 'smoke'?"));
  EXPECT_THAT(load("cases/b/thre").error().message, HasSubstr("did you mean 'cases/b/three'?"));
}

TEST_F(SuiteTest, AFolderWithoutScenariosIsAnError) {
  base::make_folders(folder_ / "empty").value();
  EXPECT_THAT(load((folder_ / "empty").string()).error().message, HasSubstr("no scenario (*.yaml) below this folder"));
}

TEST_F(SuiteTest, AGlobThatMatchesNothingStandsAtItsPlace) {
  const auto error = refusal("version: 1\nsuite:\n  - cases/a/*.yaml\n  - cases/c/*.yaml\n");
  EXPECT_EQ(error.where, "s.yaml:4:5");
  EXPECT_THAT(error.message, HasSubstr("matches 'cases/c/*.yaml'"));
}

TEST_F(SuiteTest, AStarDoesNotCrossFolders) { EXPECT_EQ(refusal("version: 1\nsuite: [cases/*.yaml]\n").where, "s.yaml:2:9"); }

TEST_F(SuiteTest, AMissingScenarioNamesTheNearest) {
  const auto error = refusal("version: 1\nsuite: [cases/a/onne]\n");
  EXPECT_EQ(error.where, "s.yaml:2:9");
  EXPECT_THAT(error.message, HasSubstr("did you mean 'cases/a/one.yaml'?"));
}

TEST_F(SuiteTest, PathsCannotLeaveTheFolder) {
  EXPECT_THAT(refusal("version: 1\nsuite: [../x]\n").message, HasSubstr("leaves the scenarios folder"));
  EXPECT_THAT(refusal("version: 1\nsuite: [/etc/passwd]\n").message, HasSubstr("leaves the scenarios folder"));
}

TEST_F(SuiteTest, ASuiteInASuiteIsNotFound) { EXPECT_THAT(refusal("version: 1\nsuite: [suites/s]\n").message, HasSubstr("no scenario 'suites/s'")); }

TEST_F(SuiteTest, RefusesUnknownKeysAndBadParts) {
  EXPECT_THAT(refusal("version: 1\nsuite: [cases/a/one]\ntag: [x]\n").message, HasSubstr("unknown key 'tag'; did you mean 'tags'?"));
  EXPECT_EQ(refusal("suite: [cases/a/one]\n").where, "s.yaml:1:1");
  EXPECT_THAT(refusal("version: 1\nsuite: []\n").message, HasSubstr("the suite lists no scenario"));
  EXPECT_THAT(refusal("version: 1\nsuite: cases/a/one\n").message, HasSubstr("expected a list of scenario paths"));
  EXPECT_EQ(refusal("version: 1\nsuite: [cases/a/one]\nset: {dtpye: bf16}\n").where, "s.yaml:3:7");
}

TEST_F(SuiteTest, AValueOfItsSetIsBlamedInTheSuite) {
  const auto error = refusal("version: 1\nsuite: [cases/a/one]\nset: {top_k: 13}\n");
  EXPECT_EQ(error.where, "s.yaml:3:14");
  EXPECT_THAT(error.message, HasSubstr("top_k=13 is more than experts=12"));
}

TEST_F(SuiteTest, AnErrorInAListedScenarioKeepsItsOwnPlace) {
  const auto broken = write("cases/a/broken.yaml", scenario(4) + "dtpye: bf16\n");
  EXPECT_EQ(refusal("version: 1\nsuite: [cases/a/broken]\n").where, broken.string() + ":6:1");
}

}  // namespace
}  // namespace moecheck::scenario
