#include <gmock/gmock.h>

#include "harness/scenario/load.h"
#include "tests/unit/scenario/folders.h"

namespace moecheck::scenario {
namespace {

using testing::HasSubstr;

constexpr std::string_view kTiny =
    "version: 1\n"
    "family: tiny\n"
    "sizes: {experts: 8, top_k: 3, d_model: 20, d_ff: 12}\n"
    "router: {softmax: after_topk, renormalise: false}\n"
    "experts: {activation: silu, packing: gate_up}\n"
    "checkpoint:\n"
    "  router: r\n"
    "  gate: e.{e}.g\n"
    "  up: e.{e}.u\n"
    "  down: e.{e}.d\n"
    "  attention: a\n";

base::Result<model::ModelSpec> tiny_with(std::string_view from, std::string_view to) {
  std::string text(kTiny);
  const auto at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  text.replace(at, from.size(), to);
  auto document = parse_yaml("tiny.yaml", text);
  if (!document) return document.error();
  return family_of(*document);
}

TEST(Family, ReadsEveryPart) {
  const auto spec = tiny_with("", "").value();
  EXPECT_EQ(spec.family, "tiny");
  EXPECT_EQ(spec.num_experts, 8);
  EXPECT_EQ(spec.top_k, 3);
  EXPECT_EQ(spec.d_model, 20);
  EXPECT_EQ(spec.d_ff, 12);
  EXPECT_EQ(spec.score_function, model::ScoreFunction::kSoftmaxAfterTopk);
  EXPECT_FALSE(spec.renormalise);
  EXPECT_EQ(spec.names.router, "r");
  EXPECT_EQ(spec.names.gate, "e.{e}.g");
  EXPECT_EQ(spec.names.up, "e.{e}.u");
  EXPECT_EQ(spec.names.down, "e.{e}.d");
  EXPECT_EQ(spec.names.attention, "a");
}

TEST(Family, ReadsAScaleAndAClampedActivation) {
  EXPECT_EQ(tiny_with("", "").value().routed_scale, 1);
  EXPECT_TRUE(tiny_with("", "").value().activation.is_silu());
  const auto scaled = tiny_with("softmax: after_topk, renormalise: false", "softmax: sigmoid, renormalise: true, routed_scale: 2.5").value();
  EXPECT_EQ(scaled.score_function, model::ScoreFunction::kSigmoid);
  EXPECT_EQ(scaled.routed_scale, 2.5);
  const auto clamped = tiny_with("activation: silu", "activation: swiglu_oai, limit: 7").value();
  EXPECT_FALSE(clamped.activation.is_silu());
  EXPECT_EQ(clamped.activation.alpha, 1.702);
  EXPECT_EQ(clamped.activation.limit, 7);
  EXPECT_EQ(clamped.activation.up_shift, 1);
  const auto clamped_silu = tiny_with("activation: silu", "activation: silu, limit: 10").value();
  EXPECT_FALSE(clamped_silu.activation.is_silu());
  EXPECT_EQ(clamped_silu.activation.alpha, 1);
  EXPECT_EQ(clamped_silu.activation.limit, 10);
}

struct Refused {
  const char* from;
  const char* to;
  const char* where;
  const char* why;
};

class RefusedFamily : public testing::TestWithParam<Refused> {};

TEST_P(RefusedFamily, SaysWhereAndWhy) {
  const auto spec = tiny_with(GetParam().from, GetParam().to);
  ASSERT_FALSE(spec);
  EXPECT_EQ(spec.error().code, base::ErrorCode::kUsage);
  EXPECT_EQ(spec.error().where, GetParam().where);
  EXPECT_THAT(spec.error().message, HasSubstr(GetParam().why));
}

INSTANTIATE_TEST_SUITE_P(
    Family, RefusedFamily,
    testing::Values(Refused{"version: 1", "version: 3", "tiny.yaml:1:10", "version 3 is not known"},
                    Refused{"family: tiny", "famly: tiny", "tiny.yaml:2:1", "did you mean 'family'"},
                    Refused{"family: tiny\n", "", "tiny.yaml:1:1", "family is missing"},
                    Refused{"family: tiny", "family: mini", "tiny.yaml:2:9", "the names must agree"},
                    Refused{"top_k: 3", "topk: 3", "tiny.yaml:3:21", "did you mean 'top_k'"},
                    Refused{"top_k: 3, ", "", "tiny.yaml:3:8", "sizes.top_k is missing"},
                    Refused{"top_k: 3", "top_k: 9", "tiny.yaml:3:28", "top_k=9 is more than experts=8"},
                    Refused{"experts: 8", "experts: 0", "tiny.yaml:3:18", "from 1 to 4096"},
                    Refused{"experts: 8", "experts: 010", "tiny.yaml:3:18", "leading zeros"},
                    Refused{"after_topk", "after", "tiny.yaml:4:19", "is not a value of softmax"},
                    Refused{"renormalise: false", "renormalise: no", "tiny.yaml:4:44", "expected true or false"},
                    Refused{"silu", "gelu", "tiny.yaml:5:23", "activation 'gelu' is not offered"},
                    Refused{"gate_up}", "up_gate}", "tiny.yaml:5:38", "packing 'up_gate' is not offered"},
                    Refused{"renormalise: false", "renormalise: false, routed_scale: 0", "tiny.yaml:4:65", "expected a number above 0, found the number 0"},
                    Refused{"renormalise: false", "renormalise: false, routed_scale: x2", "tiny.yaml:4:65", "found the text 'x2'"},
                    Refused{"silu", "swiglu_oai", "tiny.yaml:5:10", "experts.limit is missing"},
                    Refused{"silu", "silu, limit: -7", "tiny.yaml:5:36", "expected a number above 0, found the number -7"},
                    Refused{"gate: e.{e}.g", "gate: e.g", "tiny.yaml:8:9", "needs one {e}"},
                    Refused{"gate: e.{e}.g", "gate: e.{e}.{e}", "tiny.yaml:8:9", "needs one {e}"},
                    Refused{"up: e.{e}.u", "up: e.{e}.{x}", "tiny.yaml:9:7", "unexpected braces"},
                    Refused{"up: e.{e}.u", "up: e.{e}.g", "tiny.yaml:9:7", "up has the name of gate"},
                    Refused{"attention: a", "attention: a.{e}", "tiny.yaml:11:14", "unexpected braces"},
                    Refused{"attention: a", "attention: a b", "tiny.yaml:11:14", "no blanks"},
                    Refused{"  attention: a\n", "", "tiny.yaml:7:3", "checkpoint.attention is missing"}));

TEST(Family, TheShippedOnesLoad) {
  const auto load = family_loader(models_dir());
  const auto mixtral = load("mixtral").value();
  EXPECT_EQ(mixtral.num_experts, 12);
  EXPECT_EQ(mixtral.top_k, 2);
  EXPECT_EQ(model::expert_tensor_name(mixtral.names.up, 3), "model.layers.0.block_sparse_moe.experts.3.w3.weight");
  EXPECT_EQ(model::expert_tensor_name(mixtral.names.down, 3), "model.layers.0.block_sparse_moe.experts.3.w2.weight");
  const auto qwen = load("qwen3_moe").value();
  EXPECT_EQ(qwen.top_k, 3);
  EXPECT_EQ(model::expert_tensor_name(qwen.names.gate, 11), "model.layers.0.mlp.experts.11.gate_proj.weight");
  EXPECT_EQ(load("mixtral_8x7b").value().d_ff, 14336);
  const auto large = load("qwen3_30b_a3b").value();
  EXPECT_EQ(large.num_experts, 128);
  EXPECT_EQ(large.top_k, 8);
  EXPECT_TRUE(large.renormalise);
  EXPECT_EQ(load("deepseek_v3").value().routed_scale, 2);
  EXPECT_EQ(load("gpt_oss").value().activation.limit, 1.5);
}

TEST(Family, UnknownNamesTheNearest) {
  const auto error = load_family(models_dir(), "mixtrl").error();
  EXPECT_EQ(error.code, base::ErrorCode::kUsage);
  EXPECT_THAT(error.message, HasSubstr("no model family 'mixtrl'"));
  EXPECT_THAT(error.message, HasSubstr("did you mean 'mixtral'?"));
}

using FamilyFolder = FolderTest;

TEST_F(FamilyFolder, LoaderReadsAFileOnce) {
  const auto path = write("tiny.yaml", kTiny);
  const auto load = family_loader(folder_);
  ASSERT_TRUE(load("tiny"));
  std::filesystem::remove(path);
  EXPECT_TRUE(load("tiny"));
}

TEST_F(FamilyFolder, NameCannotLeaveTheFolder) {
  write("outside.yaml", kTiny);
  write("models/tiny.yaml", kTiny);
  EXPECT_FALSE(load_family(folder_ / "models", "../outside"));
}

}  // namespace
}  // namespace moecheck::scenario
