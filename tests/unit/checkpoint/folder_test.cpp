// Checkpoints with whole tensors: the indexed form, a folder of files, a single file.
#include <gmock/gmock.h>

#include "tests/unit/checkpoint/checkpoint_fixture.h"

namespace moecheck::checkpoint {
namespace {

namespace fs = std::filesystem;
using base::DType;
using testing::HasSubstr;

class Indexed : public CheckpointFolders {
 protected:
  Indexed() { write_indexed("c"); }

  void replace_in_index(const std::string& what, const std::string& by) const {
    std::string text = read_text("c/model.safetensors.index.json");
    ASSERT_NE(text.find(what), std::string::npos);
    write_text("c/model.safetensors.index.json", text.replace(text.find(what), what.size(), by));
  }
};

constexpr const char* kIndex = "model.safetensors.index.json";
constexpr const char* kFirst = "model-00001-of-00002.safetensors";
constexpr const char* kSecond = "model-00002-of-00002.safetensors";

TEST_F(Indexed, IsReadFromItsFolderOrItsIndex) {
  for (const char* at : {"c", "c/model.safetensors.index.json"}) {
    const auto checkpoint = read_checkpoint(path(at));
    ASSERT_TRUE(checkpoint) << checkpoint.error().text();
    EXPECT_EQ(checkpoint->form, Form::kIndexed);
    EXPECT_EQ(checkpoint->tensors.size(), 5U);
    EXPECT_EQ(checkpoint->tensors.at("m.gate.weight").shards.at(0).file, kSecond);
    EXPECT_TRUE(base::same_bytes(tensor_of(*checkpoint, "m.experts.2.up.weight"), ramp(DType::kF32, {2, 3}, 20)));
  }
}

TEST_F(Indexed, RefusesAMissingFile) {
  fs::remove(path("c") / kFirst);
  expect_problem("c", kFirst, "is not there");
}

TEST_F(Indexed, RefusesAFileThatTheIndexDoesNotName) {
  write_tensors("c/extra.safetensors", {});
  expect_problem("c", "extra.safetensors", "model.safetensors.index.json does not name it");
}

TEST_F(Indexed, RefusesATruncatedFile) {
  fs::resize_file(path("c") / kSecond, 60);
  expect_problem("c", kSecond, "");
}

TEST_F(Indexed, RefusesATensorThatIsNotInItsFile) {
  replace_in_index(R"("m.gate.weight")", R"("m.gate.bias": "model-00001-of-00002.safetensors", "m.gate.weight")");
  expect_problem("c", kFirst, "is not in it", "m.gate.bias");
}

TEST_F(Indexed, RefusesATensorThatTheIndexDoesNotHave) {
  write_tensors(std::string("c/") + kFirst, {{"m.experts.0.up.weight", ramp(DType::kF32, {2, 3}, 0)},
                                             {"m.experts.1.up.weight", ramp(DType::kF32, {2, 3}, 0)}, {"ghost", ramp(DType::kF32, {1}, 0)}});
  expect_problem("c", kFirst, "is in no entry", "ghost");
}

TEST_F(Indexed, RefusesATensorInTwoFiles) {
  write_tensors(std::string("c/") + kFirst, {{"m.experts.0.up.weight", ramp(DType::kF32, {2, 3}, 0)},
                                             {"m.experts.1.up.weight", ramp(DType::kF32, {2, 3}, 0)}, {"m.gate.weight", ramp(DType::kBF16, {4, 3}, 1)}});
  expect_problem("c", kFirst, "puts it in model-00002-of-00002.safetensors", "m.gate.weight");
}

TEST_F(Indexed, RefusesAnotherTotalSize) {
  replace_in_index("120", "121");
  expect_problem("c", kIndex, "metadata.total_size is 121, the tensors have 120 bytes");
}

TEST_F(Indexed, RefusesAnIndexThatIsDamagedAndListsItsFiles) {
  const std::string good = read_text(std::string("c/") + kIndex);
  const std::vector<std::pair<std::string, std::string>> damaged = {
      {good.substr(0, good.size() - 9), "not valid JSON"},
      {"{}", "has no weight_map"},
      {R"({"weight_map": {"a": "../b.safetensors"}})", "puts tensor 'a' in \"../b.safetensors\""},
      {R"({"weight_map": {"a": "b.safetensors", "a": "c.safetensors"}})", "names 'a' twice"}};
  for (const auto& [text, message] : damaged) {
    write_text(std::string("c/") + kIndex, text);
    expect_problem("c", kIndex, message);
    EXPECT_EQ(survey(path("c"))->tensors.size(), 5U);
  }
}

class Folder : public CheckpointFolders {};

TEST_F(Folder, IsReadAsOneFileOrAsSeveral) {
  write_tensors("one/model.safetensors", {{"a", ramp(DType::kI64, {2}, 0)}});
  write_tensors("two/x.safetensors", {{"a", ramp(DType::kI64, {2}, 0)}});
  write_tensors("two/y.safetensors", {{"b", ramp(DType::kI64, {2}, 0)}});
  expect_sound("one");
  expect_sound("one/model.safetensors");
  const auto two = read_checkpoint(path("two"));
  ASSERT_TRUE(two);
  EXPECT_EQ(two->form, Form::kFolder);
  EXPECT_EQ(two->tensors.size(), 2U);
}

TEST_F(Folder, RefusesATensorInTwoFiles) {
  write_tensors("c/rank0.safetensors", {{"w", ramp(DType::kF32, {2}, 0)}});
  write_tensors("c/rank1.safetensors", {{"w", ramp(DType::kF32, {2}, 0)}});
  expect_problem("c", "rank1.safetensors", "is in rank0.safetensors too, and no index says which", "w");
}

TEST_F(Folder, RefusesANumberedFileThatIsMissing) {
  write_tensors("c/model-00001-of-00003.safetensors", {{"a", ramp(DType::kF32, {2}, 0)}});
  write_tensors("c/model-00003-of-00003.safetensors", {{"b", ramp(DType::kF32, {2}, 0)}});
  expect_problem("c", "model-00002-of-00003.safetensors", "is not there");
}

TEST_F(Folder, RefusesADamagedFile) {
  write_text("c/a.safetensors", "no header");
  expect_problem("c", "a.safetensors", "");
}

TEST_F(Folder, SaysWhatIsNoCheckpoint) {
  write_text("empty/config.json", "{}");
  EXPECT_THAT(survey(path("empty")).error().text(), HasSubstr("holds no .safetensors file and no index"));
  EXPECT_THAT(survey(path("empty/config.json")).error().text(), HasSubstr("is no folder"));
  EXPECT_THAT(survey(path("nowhere")).error().text(), HasSubstr("nowhere: is not there"));
  EXPECT_EQ(survey(path("nowhere")).error().code, base::ErrorCode::kIo);
}

}  // namespace
}  // namespace moecheck::checkpoint
