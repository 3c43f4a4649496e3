#include "tests/unit/checkpoint/checkpoint_fixture.h"

#include <cstdlib>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <unistd.h>

#include "harness/base/files.h"

namespace moecheck::checkpoint {

using base::DType;

namespace {

// In memory where there is such a folder: thousands of small files are written and synced.
std::filesystem::path fast_folder() {
  if (const char* named = std::getenv("MOECHECK_TMPDIR"); named != nullptr && *named != '\0') return named;
  if (::access("/dev/shm", W_OK) == 0) return "/dev/shm";
  return testing::TempDir();
}

}  // namespace

CheckpointFolders::CheckpointFolders()
    : root_(fast_folder() / fmt::format("moecheck_checkpoint_{}", ::getpid())) {
  std::filesystem::remove_all(root_);
  std::filesystem::create_directories(root_);
}

CheckpointFolders::~CheckpointFolders() { std::filesystem::remove_all(root_); }

void CheckpointFolders::write_tensors(const std::string& file, const std::vector<trace::NamedTensor>& tensors) const {
  std::filesystem::create_directories(path(file).parent_path());
  ASSERT_TRUE(trace::write_safetensors(path(file), tensors, {}));
}

void CheckpointFolders::write_text(const std::string& file, const std::string& text) const {
  std::filesystem::create_directories(path(file).parent_path());
  ASSERT_TRUE(base::write_file_atomically(path(file), text));
}

std::string CheckpointFolders::read_text(const std::string& file) const { return base::read_file(path(file)).value(); }

base::HostTensor ramp(DType dtype, base::Shape shape, double first, double step) {
  base::HostTensor tensor(dtype, std::move(shape));
  for (std::int64_t i = 0; i < tensor.numel(); ++i) tensor.set(i, first + step * static_cast<double>(i));
  return tensor;
}

void CheckpointFolders::write_sharded(const std::string& folder) const {
  const auto mesh = model::Mesh::parse("dp=2,ep=2").value();
  const base::HostTensor experts = ramp(DType::kF32, {4, 3, 5}, 0);
  const std::vector<model::Cut> over_ep = {{"ep", model::shard(0)}};
  std::filesystem::create_directories(path(folder));
  Index index{mesh.world_size(), mesh, {}, {}};
  for (model::Dim rank = 0; rank < mesh.world_size(); ++rank) {
    const Box held{{2 * mesh.coordinate(rank, "ep"), 0, 0}, {2, 3, 5}};
    const std::vector<LocalTensor> tensors = {{"experts/w", cut_out(experts, held), over_ep, experts.shape()},
                                              {"router/w", ramp(DType::kBF16, {4, 5}, 1), {}, {4, 5}}};
    ASSERT_TRUE(write_rank_file(path(folder), mesh, rank, tensors));
    add_shards(index, rank, tensors);
  }
  ASSERT_TRUE(write_index(path(folder), index));
}

void CheckpointFolders::write_indexed(const std::string& folder) const {
  const auto expert = [](int e) { return trace::NamedTensor{fmt::format("m.experts.{}.up.weight", e), ramp(DType::kF32, {2, 3}, 10 * e)}; };
  write_tensors(folder + "/model-00001-of-00002.safetensors", {expert(0), expert(1)});
  write_tensors(folder + "/model-00002-of-00002.safetensors", {expert(2), expert(3), {"m.gate.weight", ramp(DType::kBF16, {4, 3}, 1)}});
  write_text(folder + "/model.safetensors.index.json", R"({"metadata": {"total_size": 120}, "weight_map": {
      "m.experts.0.up.weight": "model-00001-of-00002.safetensors", "m.experts.1.up.weight": "model-00001-of-00002.safetensors",
      "m.experts.2.up.weight": "model-00002-of-00002.safetensors", "m.experts.3.up.weight": "model-00002-of-00002.safetensors",
      "m.gate.weight": "model-00002-of-00002.safetensors"}})");
}

void CheckpointFolders::expect_problem(const std::string& folder, const std::string& file, const std::string& message, const std::string& tensor) const {
  const auto checkpoint = survey(path(folder));
  ASSERT_TRUE(checkpoint) << checkpoint.error().text();
  std::string all;
  for (const Problem& problem : checkpoint->problems) all += problem.text() + "\n";
  ASSERT_EQ(checkpoint->problems.size(), 1U) << all;
  EXPECT_EQ(checkpoint->problems[0].file, file) << all;
  EXPECT_EQ(checkpoint->problems[0].tensor, tensor) << all;
  EXPECT_THAT(checkpoint->problems[0].message, testing::HasSubstr(message));
  const auto refused = read_checkpoint(path(folder));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, base::ErrorCode::kDamaged);
  EXPECT_THAT(refused.error().text(), testing::HasSubstr(file));
}

void CheckpointFolders::expect_sound(const std::string& folder) const {
  const auto checkpoint = read_checkpoint(path(folder));
  EXPECT_TRUE(checkpoint) << (checkpoint ? "" : checkpoint.error().text());
}

}  // namespace moecheck::checkpoint
