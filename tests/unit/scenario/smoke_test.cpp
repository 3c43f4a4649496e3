// The shipped scenarios: they load, and the smoke suite covers what it promises.
#include <map>
#include <set>

#include <gmock/gmock.h>

#include "harness/scenario/expand.h"
#include "harness/scenario/load.h"
#include "harness/scenario/suite.h"
#include "tests/unit/scenario/folders.h"

namespace moecheck::scenario {
namespace {

using cases::Case;
using testing::IsSupersetOf;

std::vector<Case> smoke() { return load_cases("smoke", {}, scenarios_dir(), family_loader(models_dir())).value(); }

std::map<std::string, std::set<std::string>> values_of_knobs(const std::vector<Case>& all) {
  std::map<std::string, std::set<std::string>> seen;
  for (const Case& one : all)
    for (const auto& [knob, value] : cases::config_of(one)) seen[knob].insert(value);
  return seen;
}

TEST(SmokeSuite, HasBetween150And200CasesWithUniqueIds) {
  const auto all = smoke();
  std::set<std::string> ids;
  for (const Case& one : all) ids.insert(cases::case_id(one, family_loader(models_dir())));
  EXPECT_EQ(ids.size(), all.size());
  EXPECT_GE(all.size(), 150U);
  EXPECT_LE(all.size(), 200U);
}

TEST(SmokeSuite, CoversEveryValueOfTheKnobs) {
  auto seen = values_of_knobs(smoke());
  EXPECT_THAT(seen["impl"], IsSupersetOf({"ep_allreduce", "tp_sharded"}));
  EXPECT_THAT(seen["experts_backend"], IsSupersetOf({"eager", "batched_mm", "grouped_mm"}));
  EXPECT_THAT(seen["dtype"], IsSupersetOf({"fp32", "bf16"}));
  EXPECT_THAT(seen["model"], IsSupersetOf({"mixtral", "qwen3_moe"}));
  EXPECT_THAT(seen["routing"], IsSupersetOf({"natural", "one_expert", "idle_expert", "idle_rank", "k_ranks", "one_rank", "ties", "zipf"}));
  EXPECT_THAT(seen["values"], IsSupersetOf({"normal", "exact", "provenance"}));
  EXPECT_THAT(seen["tokens"], IsSupersetOf({"7,5", "6,0", "1"}));
  EXPECT_THAT(seen["softmax"], IsSupersetOf({"before_topk", "after_topk"}));
  EXPECT_THAT(seen["renormalise"], IsSupersetOf({"true", "false"}));
  EXPECT_GE(seen["seed"].size(), 4U);
}

TEST(SmokeSuite, CoversEveryCombinationOfImplMeshBackendDtypeAndModel) {
  const std::map<std::string, std::vector<std::string>> meshes = {
      {"ep_allreduce", {"none", "ep=2", "ep=3", "ep=4", "dp=2,ep=2", "ep=2,dp=2"}}, {"tp_sharded", {"none", "tp=2", "tp=3", "tp=4", "dp=2,tp=2"}}};
  std::set<std::string> seen;
  for (const Case& one : smoke()) {
    const auto list = cases::config_of(one);
    const std::map<std::string, std::string> config(list.begin(), list.end());
    seen.insert(config.at("impl") + config.at("mesh") + config.at("experts_backend") + config.at("dtype") + config.at("model"));
  }
  for (const auto& [impl, impl_meshes] : meshes)
    for (const auto& mesh : impl_meshes)
      for (const char* backend : {"eager", "batched_mm", "grouped_mm"})
        for (const char* dtype : {"fp32", "bf16"})
          for (const char* family : {"mixtral", "qwen3_moe"}) EXPECT_TRUE(seen.contains(impl + mesh + backend + dtype + family)) << impl << mesh;
}

TEST(SmokeSuite, RunsEveryRoutingUnderBothImplementations) {
  std::map<std::string, std::set<std::string>> routings;
  for (const Case& one : smoke()) {
    const auto list = cases::config_of(one);
    const std::map<std::string, std::string> config(list.begin(), list.end());
    routings[config.at("impl")].insert(config.at("routing"));
  }
  for (const char* impl : {"ep_allreduce", "tp_sharded"}) EXPECT_EQ(routings[impl].size(), 8U) << impl;
}

TEST(SmokeSuite, CrossesNoMeshWithAnImplementationThatRefusesIt) {
  for (const Case& one : smoke()) {
    EXPECT_FALSE(one.impl == "ep_allreduce" && one.problem.mesh.has("tp")) << one.scenario;
    EXPECT_FALSE(one.impl == "tp_sharded" && one.problem.mesh.has("ep")) << one.scenario;
  }
}

TEST(SmokeSuite, NeedsFewRanks) {
  for (const Case& one : smoke()) EXPECT_LE(one.world_size(), 4) << one.scenario;
}

TEST(SmokeSuite, EveryIdReadsBackToTheSameCase) {
  const auto load = family_loader(models_dir());
  for (const Case& one : smoke()) {
    const std::string id = cases::case_id(one, load);
    const auto again = cases::make_case(cases::parse_case_id(id).value(), load);
    ASSERT_TRUE(again) << id << ": " << again.error().text();
    EXPECT_EQ(cases::config_of(*again), cases::config_of(one)) << id;
    EXPECT_EQ(cases::case_id(*again, load), id);
  }
}

TEST(SmokeSuite, NoScenarioRepeatsACaseOfAnother) {
  const auto load = family_loader(models_dir());
  std::map<std::string, std::string> owner;
  for (const auto& file : scenario_files(scenarios_dir(), scenarios_dir())) {
    const auto scenario = load_scenario(file, scenarios_dir()).value();
    if (scenario.cover) continue;   // which cases a covering array has is not for its author to say
    const auto all = expand(scenario, {}, load).value();
    for (const Case& one : all) {
      const auto [first, is_new] = owner.emplace(cases::case_id(one, load), one.scenario);
      EXPECT_TRUE(is_new) << first->first << " stands in " << first->second << " and " << one.scenario;
    }
  }
}

TEST(SmokeSuite, LeavesOutTheLargeCases) {
  for (const Case& one : smoke()) EXPECT_EQ(one.scenario.find("cases/large"), std::string::npos);
  const auto large = load_cases("cases/large/qwen3_30b_a3b_ep4", {}, scenarios_dir(), family_loader(models_dir())).value();
  ASSERT_EQ(large.size(), 1U);
  EXPECT_EQ(cases::case_id(large[0], family_loader(models_dir())),
            "impl=ep_allreduce model=qwen3_30b_a3b mesh=ep=4 dtype=bf16 experts_backend=grouped_mm tokens=64");
}

TEST(ShippedScenarios, EachSaysWhatItIsFor) {
  for (const auto& file : scenario_files(scenarios_dir(), scenarios_dir()))
    EXPECT_FALSE(load_scenario(file, scenarios_dir()).value().description.empty()) << file;
}

}  // namespace
}  // namespace moecheck::scenario
