// What write_checkpoint() writes, read back by harness/checkpoint in every form.
#include "harness/subject/checkpoint.h"

#include <filesystem>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "harness/base/files.h"
#include "harness/checkpoint/checkpoint.h"
#include "harness/inputs/generator.h"

namespace moecheck::subject {
namespace {

namespace fs = std::filesystem;

using cases::WeightLayout;

model::Problem small_problem() {
  model::Problem problem;
  problem.model = {.family = "small", .num_experts = 3, .top_k = 1, .d_model = 8, .d_ff = 5, .activation = {}, .names = {
      .router = "m.gate.weight", .gate = "m.experts.{e}.w1.weight", .up = "m.experts.{e}.w3.weight", .down = "m.experts.{e}.w2.weight",
      .attention = "m.o_proj.weight"}};
  problem.dtype = base::DType::kBF16;
  problem.seed = 11;
  return problem;
}

class CheckpointFolder : public testing::Test {
 protected:
  CheckpointFolder() : folder_(fs::path(testing::TempDir()) / fmt::format("moecheck_subject_{}", ::getpid())) { fs::remove_all(folder_); }
  ~CheckpointFolder() override { fs::remove_all(folder_); }

  // Refused, if it is not sound.
  checkpoint::Checkpoint written(const WeightForm& form) const {
    const auto status = write_checkpoint(folder_, problem_, form);
    EXPECT_TRUE(status) << (status ? "" : status.error().text());
    auto read = checkpoint::read_checkpoint(folder_);
    EXPECT_TRUE(read) << (read ? "" : read.error().text());
    return *std::move(read);
  }

  void expect_generated(const checkpoint::Checkpoint& read, const std::string& name, const base::HostTensor& expected) const {
    ASSERT_TRUE(read.tensors.contains(name)) << name;
    EXPECT_TRUE(base::same_bytes(checkpoint::tensor_of(read, name), expected)) << name;
  }

  const model::Problem problem_ = small_problem();
  const inputs::Generator generator_{problem_};
  const fs::path folder_;
};

class WrittenCheckpoint : public CheckpointFolder, public testing::WithParamInterface<WeightForm> {};

// The bytes of all experts' parts, one expert after the other.
std::vector<std::byte> joined(const std::vector<base::HostTensor>& parts) {
  std::vector<std::byte> bytes;
  for (const base::HostTensor& part : parts) bytes.insert(bytes.end(), part.bytes().begin(), part.bytes().end());
  return bytes;
}

TEST_P(WrittenCheckpoint, HasTheGeneratorsBytesUnderTheFamilysNames) {
  const checkpoint::Checkpoint read = written(GetParam());
  expect_generated(read, "m.o_proj.weight", generator_.attention_DD());
  expect_generated(read, "m.gate.weight", generator_.router_ED());
  if (GetParam().layout == WeightLayout::kPacked) {
    EXPECT_EQ(read.tensors.size(), 4U);
    return;
  }
  EXPECT_EQ(read.tensors.size(), 11U);
  for (model::Dim e = 0; e < 3; ++e) {
    expect_generated(read, fmt::format("m.experts.{}.w1.weight", e), generator_.gate_FD(e));
    expect_generated(read, fmt::format("m.experts.{}.w3.weight", e), generator_.up_FD(e));
    expect_generated(read, fmt::format("m.experts.{}.w2.weight", e), generator_.down_DF(e));
  }
}

TEST_P(WrittenCheckpoint, HasTheFilesThatItsFormSays) {
  const checkpoint::Checkpoint read = written(GetParam());
  const bool is_one = GetParam().num_files == 1;
  const auto most = static_cast<model::Dim>(read.tensors.size());
  EXPECT_EQ(static_cast<model::Dim>(read.files.size()), std::min(GetParam().num_files, most));
  EXPECT_EQ(fs::exists(folder_ / kCheckpointFile), is_one);
  EXPECT_EQ(fs::exists(folder_ / kCheckpointIndex), !is_one);
  for (const auto& [name, file] : read.opened) EXPECT_FALSE(file.tensors.empty()) << name;
}

TEST_P(WrittenCheckpoint, IsTheSameFromAnySourceOfTheSameValues) {
  const checkpoint::Checkpoint read = written(GetParam());
  const fs::path again = folder_ / "again";
  fs::create_directories(again);
  const std::vector<WeightFile> files = weight_files(problem_, GetParam());
  for (const WeightFile& file : files)
    ASSERT_TRUE(write_weight_file(again, file, [&](const Weight& weight) { return checkpoint::tensor_of(read, weight.name); }));
  ASSERT_TRUE(write_weight_index(again, files, problem_.dtype));
  for (const auto& file : fs::directory_iterator(again))
    EXPECT_EQ(*base::read_file(file.path()), *base::read_file(folder_ / file.path().filename())) << file.path();
}

INSTANTIATE_TEST_SUITE_P(Forms, WrittenCheckpoint,
                         testing::Values(WeightForm{WeightLayout::kPerExpert, 1}, WeightForm{WeightLayout::kPerExpert, 2}, WeightForm{WeightLayout::kPerExpert, 5},
                                         WeightForm{WeightLayout::kPerExpert, 64}, WeightForm{WeightLayout::kPacked, 1}, WeightForm{WeightLayout::kPacked, 3}));

TEST_F(CheckpointFolder, StacksGateOverUpOfEachExpertWherePacked) {
  const checkpoint::Checkpoint read = written({WeightLayout::kPacked, 1});
  const base::HostTensor gate_up = checkpoint::tensor_of(read, "m.experts.gate_up_proj");
  EXPECT_EQ(gate_up.shape(), (base::Shape{3, 10, 8}));
  std::vector<base::HostTensor> parts;
  for (model::Dim e = 0; e < 3; ++e) {
    parts.push_back(generator_.gate_FD(e));
    parts.push_back(generator_.up_FD(e));
  }
  EXPECT_THAT(gate_up.bytes(), testing::ElementsAreArray(joined(parts)));
  const base::HostTensor down = checkpoint::tensor_of(read, "m.experts.down_proj");
  EXPECT_EQ(down.shape(), (base::Shape{3, 8, 5}));
  EXPECT_THAT(down.bytes(), testing::ElementsAreArray(joined({generator_.down_DF(0), generator_.down_DF(1), generator_.down_DF(2)})));
}

TEST(WeightFiles, HaveNoMoreThanATensorAboveTheirShare) {
  const std::vector<WeightFile> files = weight_files(small_problem(), {WeightLayout::kPerExpert, 4});
  ASSERT_EQ(files.size(), 4U);
  EXPECT_EQ(files[0].name, "model-00001-of-00004.safetensors");
  EXPECT_EQ(files[3].name, "model-00004-of-00004.safetensors");
  constexpr model::Dim kAll = 64 + 24 + 9 * 40, kLargest = 64;
  for (const WeightFile& file : files) {
    model::Dim elements = 0;
    for (const Weight& weight : file.weights) elements += base::num_elements(weight.shape);
    EXPECT_LE(elements, kAll / 4 + kLargest) << file.name;
  }
}

TEST(PackedNamesOf, NameTheModuleThatHoldsTheExperts) {
  model::CheckpointNames names;
  names.gate = "model.layers.0.mlp.experts.{e}.gate_proj.weight";
  names.down = "model.layers.0.mlp.experts.{e}.down_proj.weight";
  EXPECT_EQ(packed_names(names).gate_up, "model.layers.0.mlp.experts.gate_up_proj");
  EXPECT_EQ(packed_names(names).down, "model.layers.0.mlp.experts.down_proj");
}

TEST(CheckpointKey, NamesTheForm) {
  const model::Problem problem = small_problem();
  const std::string plain = checkpoint_key(problem, {});
  EXPECT_EQ(checkpoint_key(problem, {WeightLayout::kPerExpert, 1}), plain);
  EXPECT_NE(checkpoint_key(problem, {WeightLayout::kPacked, 1}), plain);
  EXPECT_NE(checkpoint_key(problem, {WeightLayout::kPerExpert, 2}), plain);
}

}  // namespace
}  // namespace moecheck::subject
