// What diff and inspect print: made in memory, without a file.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "harness/cli/diff_output.h"
#include "harness/cli/inspect_output.h"
#include "harness/cli/text_table.h"

namespace moecheck::cli {
namespace {

using base::DType;
using checkpoint::DifferenceKind;
using testing::HasSubstr;

checkpoint::Diff sample_diff() {
  const checkpoint::TensorSide expert{DType::kBF16, {20, 48}};
  const checkpoint::TensorSide router{DType::kF32, {8, 48}};
  checkpoint::Diff diff;
  diff.num_tensors = 12;
  diff.num_compared = 10;
  diff.num_elements = 5000;
  diff.tensors = {{"m.experts.6.up", DifferenceKind::kMissing, expert, {}, {}, false},
                  {"m.experts.7.up", DifferenceKind::kMissing, expert, {}, {}, false},
                  {"m.experts.0.up", DifferenceKind::kValues, expert, expert, checkpoint::Figures{960, 960, 0, 0.5, 1.25, 70}, true},
                  {"m.gate", DifferenceKind::kValues, router, router, checkpoint::Figures{384, 2, 5, std::nan(""), std::nan(""), 3}, false}};
  checkpoint::ExpertMatch match;
  match.moves = {{1, 0, 1, false, true}, {0, 1, 1, false, true}};
  match.is_permutation = true;
  diff.experts = {{"l.0.experts", {"up"}, true, match}, {"l.1.experts", {"up"}, true, match}, {"l.2.experts", {"up"}, false, match}};
  return diff;
}

TEST(DiffOutput, PutsMovedExpertsFirstAndTheSummaryLast) {
  EXPECT_EQ(diff_text(sample_diff()),
            "l.0.experts, l.1.experts: permuted: 0<->1\n"
            "l.2.experts: permuted: 0<->1 (only up)\n"
            "kind     tensor               dtype and shape  different  max abs  rel l2  max ulp\n"
            "missing  m.experts.{6..7}.up  BF16 (20, 48)\n"
            "values   m.gate               F32 (8, 48)      2 of 384   nan      nan     3\n"
            "different: 4 of 12 tensors (2 missing, 2 values); 1 explained by moved experts\n");
}

TEST(DiffOutput, SaysHowMuchWasEqual) {
  checkpoint::Diff diff;
  diff.num_tensors = 2;
  diff.num_elements = 12;
  EXPECT_EQ(diff_text(diff), "equal: 2 tensors, 12 elements\n");
}

TEST(DiffOutput, HasEveryTensorInJsonWithNanAsText) {
  const base::Json json = diff_json(sample_diff(), {"old", "new"});
  EXPECT_EQ(json["a"], "old");
  EXPECT_EQ(json["is_equal"], false);
  EXPECT_EQ(json["summary"]["missing"], 2);
  EXPECT_EQ(json["summary"]["explained"], 1);
  ASSERT_EQ(json["tensors"].size(), 4U) << "explained ones too";
  EXPECT_TRUE(json["tensors"][0]["b"].is_null());
  EXPECT_EQ(json["tensors"][3]["max_abs"], "nan");
  EXPECT_EQ(json["experts"][0]["text"], "permuted: 0<->1");
  EXPECT_EQ(json["experts"][0]["moves"][0], (base::Json{{"a", 1}, {"b", 0}, {"count", 1}, {"is_copy", false}, {"is_exact", true}}));
}

checkpoint::Checkpoint sample_checkpoint() {
  checkpoint::Checkpoint one;
  one.form = checkpoint::Form::kSharded;
  one.world_size = 2;
  one.mesh = model::Mesh::parse("ep=2").value();
  one.files = {{"rank0.safetensors", 100, "xxh3:aa"}, {"rank1.safetensors", 90, "xxh3:bb"}};
  one.opened["rank0.safetensors"].tensors["experts/w"] = base::HostTensor(DType::kF32, {2, 3, 5});
  one.tensors["experts/w"] = {DType::kF32, {4, 3, 5}, {{"rank0.safetensors", "experts/w", {{0, 0, 0}, {2, 3, 5}}, 0},
                                                       {"rank1.safetensors", "experts/w", {{2, 0, 0}, {2, 3, 5}}, 0}}};
  one.tensors["router"] = {DType::kBF16, {4, 5}, {{"rank0.safetensors", "router", {{0, 0}, {4, 5}}, 0},
                                                  {"rank1.safetensors", "router", {{0, 0}, {4, 5}}, 1}}};
  one.problems = {{"rank1.safetensors", "", "cannot be read"}};
  return one;
}

TEST(InspectOutput, SaysWhoHoldsWhatAndWhatIsWrong) {
  EXPECT_EQ(inspect_text(sample_checkpoint(), "ckpt"),
            "ckpt: sharded, 2 ranks, mesh ep=2\n"
            "file               bytes  checksum  tensors     experts\n"
            "rank0.safetensors  100    xxh3:aa   1           0..1\n"
            "rank1.safetensors  90     xxh3:bb   unreadable  2..3\n"
            "tensor     dtype  shape      where\n"
            "experts/w  F32    (4, 3, 5)  [0:2, 0:3, 0:5] rank0.safetensors\n"
            "                             [2:4, 0:3, 0:5] rank1.safetensors\n"
            "router     BF16   (4, 5)     rank0.safetensors, rank1.safetensors (replica 1)\n"
            "problem: rank1.safetensors: cannot be read\n"
            "1 problem: 2 tensors, 80 elements, 2 files\n");
}

TEST(InspectOutput, HasRangesReplicasAndProblemsInJson) {
  const base::Json json = inspect_json(sample_checkpoint(), "ckpt");
  EXPECT_EQ(json["is_sound"], false);
  EXPECT_EQ(json["mesh"], "ep=2");
  EXPECT_EQ(json["files"][1]["experts"]["experts"], (base::Json{2, 3}));
  EXPECT_EQ(json["files"][1]["is_readable"], false);
  EXPECT_EQ(json["tensors"][1]["shards"][1]["replica"], 1);
  EXPECT_EQ(json["tensors"][0]["shards"][1]["offset"], (base::Json{2, 0, 0}));
  EXPECT_EQ(json["problems"][0]["file"], "rank1.safetensors");
}

TEST(InspectOutput, FoldsExpertsThatLieAlike) {
  checkpoint::Checkpoint one;
  for (const char* name : {"m.experts.0.up", "m.experts.1.up", "m.experts.2.up"})
    one.tensors[name] = {DType::kF32, {2, 3}, {{name == std::string("m.experts.2.up") ? "b.safetensors" : "a.safetensors", name, {{0, 0}, {2, 3}}, 0}}};
  const std::string text = inspect_text(one, "x");
  EXPECT_THAT(text, HasSubstr("m.experts.{0..1}.up  F32    (2, 3)  a.safetensors\n"));
  EXPECT_THAT(text, HasSubstr("m.experts.2.up       F32    (2, 3)  b.safetensors\n"));
}

TEST(TextTable, AlignsColumnsAndEndsLinesWithoutBlanks) { EXPECT_EQ(text_table({{"a", "bb", "c"}, {"aaa", "b"}, {}}), "a    bb  c\naaa  b\n\n"); }

}  // namespace
}  // namespace moecheck::cli
