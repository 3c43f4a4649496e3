// Random byte mutations of a valid scenario and of a family: a Result comes back, whatever the bytes.
#include <algorithm>

#include <gmock/gmock.h>

#include "harness/base/philox.h"
#include "harness/scenario/expand.h"
#include "harness/scenario/load.h"
#include "tests/unit/scenario/folders.h"

namespace moecheck::scenario {
namespace {

constexpr std::uint32_t kMutants = 4000;
// Bytes that mean something to YAML, and some that no text has.
constexpr char kRawBytes[] = "[]{}:,-?&*!|>'\"%@`#~<\n\r\t \0\xff\xc3=0129abn";
constexpr std::string_view kBytes(kRawBytes, sizeof kRawBytes - 1);  // has a NUL within

constexpr std::string_view kScenario =
    "version: 1\n"
    "description: \"a line\"\n"
    "model: qwen3_moe\n"
    "override: {experts: 8, top_k: 3, renormalise: true}\n"
    "tokens: {per_rank: [7, 5], routing: idle_expert}\n"
    "matrix:\n"
    "  impl: [ep_allreduce, tp_sharded]\n"
    "  mesh: [\"ep=2\", \"ep=4\"]\n"
    "exclude: [{impl: tp_sharded, mesh: \"ep=4\"}]\n"
    "include:\n"
    "  - {impl: ep_allreduce, mesh: none}\n"
    "phases: [load, forward]\n"
    "checks: all\n"
    "xfail: [{mesh: \"ep=2\", reason: text}]\n"
    "tags: [smoke]\n";

constexpr std::string_view kCoverScenario =
    "version: 1\n"
    "model: qwen3_moe\n"
    "cover: 2\n"
    "matrix:\n"
    "  layout: [{impl: ep_allreduce, mesh: \"ep=2\"}, {impl: tp_sharded, mesh: \"tp=2\"}]\n"
    "  dtype: [fp32, bf16]\n"
    "  seed: [1, 2]\n"
    "exclude: [{impl: tp_sharded, dtype: bf16}]\n"
    "xfail: [{mesh: \"ep=2\", reason: text}]\n";

// Determinism: a pure function of `seed`.
std::string mutated(std::string text, std::uint32_t seed) {
  const auto draw = [&](std::uint32_t step, std::uint32_t which) { return base::philox4x32_10({step, which, 0, 0}, {seed, 0})[0]; };
  const std::uint32_t num_steps = 1 + seed % 4;
  for (std::uint32_t step = 0; step < num_steps && !text.empty(); ++step) {
    const std::size_t at = draw(step, 0) % text.size();
    const char byte = kBytes[draw(step, 1) % kBytes.size()];
    switch (draw(step, 2) % 5) {
      case 0: text[at] = byte; break;
      case 1: text.insert(at, 1, byte); break;
      case 2: text.erase(at, 1); break;
      case 3: text.erase(at, draw(step, 3) % 40); break;
      default: text.insert(at, text.substr(draw(step, 3) % text.size(), draw(step, 4) % 60)); break;
    }
  }
  return text;
}

// "path:line:column" of a place in the text.
void expect_placed(const base::Error& error, const std::string& text) {
  ASSERT_TRUE(error.where.starts_with("m.yaml:")) << error.text();
  const auto line = std::stoul(error.where.substr(7));
  EXPECT_GE(line, 1U);
  EXPECT_LE(line, 1U + static_cast<std::size_t>(std::ranges::count(text, '\n'))) << error.text();
  EXPECT_NE(error.message.find('^'), std::string::npos) << error.text();
}

class ScenarioMutation : public testing::TestWithParam<std::string_view> {};

TEST_P(ScenarioMutation, LoadsOrIsRefusedWithAPlace) {
  const auto load = family_loader(models_dir());
  std::uint32_t num_accepted = 0;
  std::uint32_t num_refused = 0;
  for (std::uint32_t seed = 0; seed < kMutants; ++seed) {
    const std::string text = mutated(std::string(GetParam()), seed);
    const auto result = [&]() -> base::Result<std::size_t> {
      auto document = parse_yaml("m.yaml", text);
      if (!document) return document.error();
      auto scenario = scenario_of(std::move(*document), "m");
      if (!scenario) return scenario.error();
      auto all = expand(*scenario, {}, load);
      if (!all) return all.error();
      return all->size();
    }();
    ++(result ? num_accepted : num_refused);
    if (!result) expect_placed(result.error(), text);
  }
  // Both ways were really taken.
  EXPECT_GT(num_accepted, kMutants / 100);
  EXPECT_GT(num_refused, kMutants / 4);
}

INSTANTIATE_TEST_SUITE_P(Mutation, ScenarioMutation, testing::Values(kScenario, kCoverScenario));

TEST(Mutation, FamiliesLoadOrAreRefusedWithAPlace) {
  const std::string family = base::read_file(models_dir() / "mixtral.yaml").value();
  std::uint32_t num_refused = 0;
  for (std::uint32_t seed = 0; seed < kMutants; ++seed) {
    const std::string text = mutated(family, seed);
    auto document = parse_yaml("m.yaml", text);
    const auto spec = document ? family_of(*document) : base::Result<model::ModelSpec>(document.error());
    if (spec) continue;
    ++num_refused;
    expect_placed(spec.error(), text);
  }
  EXPECT_GT(num_refused, kMutants / 4);
}

}  // namespace
}  // namespace moecheck::scenario
