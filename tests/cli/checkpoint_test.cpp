// moecheck diff and inspect on files: exit codes, what is on stdout, what on stderr.
#include <gmock/gmock.h>

#include "cli_fixture.h"
#include "harness/trace/safetensors.h"

namespace moecheck::cli {
namespace {

namespace fs = std::filesystem;
using testing::EndsWith;
using testing::HasSubstr;
using testing::IsEmpty;

class CheckpointCommands : public CliTest {
 protected:
  // Expert e of the checkpoint holds contents[e], in every element.
  void write_experts(const std::string& file, const std::vector<double>& contents) const {
    std::vector<trace::NamedTensor> tensors;
    for (std::size_t e = 0; e < contents.size(); ++e)
      tensors.push_back({"m.experts." + std::to_string(e) + ".up.weight", base::tensor_from_doubles(base::DType::kF32, {2}, std::vector{contents[e], -1.0})});
    fs::create_directories((folder_ / file).parent_path());
    ASSERT_TRUE(trace::write_safetensors(folder_ / file, tensors, {}));
  }
};

TEST_F(CheckpointCommands, DiffEndsWithZeroForEqualAndOneForDifferent) {
  write_experts("a/model.safetensors", {1, 100});
  write_experts("b.safetensors", {1, 100});
  write_experts("c.safetensors", {100, 1});
  const Outcome equal = moecheck({"diff", "a", "b.safetensors"});
  EXPECT_EQ(equal.exit_code, 0) << equal.err;
  EXPECT_EQ(equal.out, "equal: 2 tensors, 4 elements\n");
  const Outcome different = moecheck({"diff", "a", "c.safetensors"});
  EXPECT_EQ(different.exit_code, 1);
  EXPECT_THAT(different.out, HasSubstr("m.experts: permuted: 0<->1\n"));
  EXPECT_THAT(different.out, EndsWith("different: 2 of 2 tensors (2 values); 2 explained by moved experts\n"));
  EXPECT_THAT(different.err, IsEmpty());
}

TEST_F(CheckpointCommands, DiffPrintsOneJsonObject) {
  write_experts("a.safetensors", {1, 100});
  write_experts("b.safetensors", {1, 101});
  const Outcome outcome = moecheck({"diff", "a.safetensors", "b.safetensors", "--json"});
  EXPECT_EQ(outcome.exit_code, 1);
  const base::Json json = json_of(outcome);
  EXPECT_EQ(json["summary"]["values"], 1);
  EXPECT_EQ(json["tensors"][0]["name"], "m.experts.1.up.weight");
  EXPECT_EQ(json["tensors"][0]["max_abs"], 1);
  EXPECT_EQ(moecheck({"diff", "a.safetensors", "b.safetensors", "--rtol", "0.02"}).exit_code, 0);
}

TEST_F(CheckpointCommands, DiffEndsWithFourForAWrongOptionAndSixForWhatItCannotRead) {
  write_experts("a.safetensors", {1});
  write("broken.safetensors", "no header");
  EXPECT_EQ(moecheck({"diff", "a.safetensors"}).exit_code, 4);
  EXPECT_EQ(moecheck({"diff", "a.safetensors", "a.safetensors", "--rtol", "-1"}).exit_code, 4);
  EXPECT_EQ(moecheck({"diff", "a.safetensors", "a.safetensors", "--rtol", "0.1", "--bitwise"}).exit_code, 4);
  for (const char* unreadable : {"broken.safetensors", "nowhere"}) {
    const Outcome outcome = moecheck({"diff", "a.safetensors", unreadable});
    EXPECT_EQ(outcome.exit_code, 6);
    EXPECT_THAT(outcome.out, IsEmpty());
    EXPECT_THAT(outcome.err, HasSubstr(unreadable));
  }
}

TEST_F(CheckpointCommands, DiffOfNothingIsNotEqual) {
  write_experts("a.safetensors", {});
  EXPECT_EQ(moecheck({"diff", "a.safetensors", "a.safetensors"}).exit_code, 6);
}

TEST_F(CheckpointCommands, InspectListsFilesExpertsAndChecksums) {
  write_experts("a/model.safetensors", {1, 2, 3});
  const Outcome outcome = moecheck({"inspect", "a"});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("m.experts.{0..2}.up.weight  F32    (2)    model.safetensors\n"));
  EXPECT_THAT(outcome.out, EndsWith("sound: 3 tensors, 6 elements, 1 file\n"));
  const base::Json json = json_of(moecheck({"inspect", "a", "--json"}));
  EXPECT_EQ(json["files"][0]["experts"]["m.experts"], (base::Json{0, 1, 2}));
  EXPECT_THAT(json["files"][0]["checksum"].get<std::string>(), HasSubstr("xxh3:"));
}

TEST_F(CheckpointCommands, InspectSaysWhatIsWrongAndListsTheRest) {
  write_experts("a/x.safetensors", {1});
  write("a/model.safetensors.index.json", R"({"weight_map": {"m.experts.0.up.weight": "x.safetensors", "gone": "y.safetensors"}})");
  const Outcome outcome = moecheck({"inspect", "a"});
  EXPECT_EQ(outcome.exit_code, 6);
  EXPECT_THAT(outcome.out, HasSubstr("problem: y.safetensors: is not there"));
  EXPECT_THAT(outcome.out, HasSubstr("m.experts.0.up.weight"));
  EXPECT_THAT(outcome.err, HasSubstr("y.safetensors"));
}

}  // namespace
}  // namespace moecheck::cli
