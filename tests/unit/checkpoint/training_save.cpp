#include "tests/unit/checkpoint/training_save.h"

#include <gtest/gtest.h>

#include "tests/unit/checkpoint/checkpoint_fixture.h"

namespace moecheck::checkpoint {
namespace {

using base::DType;
using base::HostTensor;
using model::Cut;
using model::Dim;

constexpr Dim kExperts = 8;
constexpr Dim kModelDim = 6;
constexpr Dim kHiddenDim = 4;

struct Global {
  std::string name;
  DType dtype = DType::kF32;
  base::Shape shape;
  std::vector<Cut> cuts;
};

std::vector<Global> globals() {
  const Cut over_ep{"ep", model::shard(0)};
  const Cut strided{"dp", model::strided_shard(1, 2)};
  const base::Shape gate_up = {kExperts, 2 * kHiddenDim, kModelDim};
  const base::Shape down = {kExperts, kModelDim, kHiddenDim};
  const base::Shape router = {kExperts, kModelDim};
  return {{"param/attention/w_DD", DType::kBF16, {kModelDim, kModelDim}, {}},
          {"param/router/w_ED", DType::kBF16, router, {}},
          {"param/experts/gate_up_EGD", DType::kBF16, gate_up, {over_ep}},
          {"param/experts/down_EDF", DType::kBF16, down, {over_ep}},
          {"optim/master/router/w_ED", DType::kF32, router, {{"dp,ep", model::shard(0)}}},
          {"optim/master/experts/gate_up_EGD", DType::kF32, gate_up, {over_ep, strided}},
          {"optim/master/experts/down_EDF", DType::kF32, down, {over_ep, {"dp", model::shard(2)}}},
          {"optim/m/router/w_ED", DType::kF32, router, {}},
          {"optim/m/experts/gate_up_EGD", DType::kF32, gate_up, {over_ep, strided}},
          {"optim/m/experts/down_EDF", DType::kF32, down, {over_ep}},
          {"optim/steps_3", DType::kI64, {3}, {}},
          // One element over two ranks: the second has none.
          {"state/batches_1", DType::kI64, {1}, {{"dp", model::shard(0)}}},
          {"state/lr_1", DType::kF64, {1}, {}},
          {"state/tokens_E", DType::kI64, {kExperts}, {over_ep}}};
}

// The boxes that the rank holds, put together.
HostTensor local_part(const HostTensor& global, const std::vector<Cut>& cuts, const model::Mesh& mesh, Dim rank) {
  HostTensor local(global.dtype(), model::held_shape(cuts, global.shape(), mesh, rank));
  for (const HeldBox& box : held_boxes(cuts, global.shape(), mesh, rank)) copy_into(local, box.local, cut_out(global, box.global));
  return local;
}

}  // namespace

std::vector<LocalTensor> training_state(const model::Mesh& mesh, Dim rank, int steps) {
  std::vector<LocalTensor> state;
  for (const Global& one : globals()) {
    // No two elements of a tensor are equal, none is 0, and none outgrows the exact integers of bf16 by much.
    const double first = 3 + 100 * steps + static_cast<double>(state.size());
    const HostTensor global = ramp(one.dtype, one.shape, first, one.dtype == DType::kBF16 ? 8 : 1);
    state.push_back({one.name, local_part(global, one.cuts, mesh, rank), one.cuts, one.shape});
  }
  return state;
}

void write_training_save(const std::filesystem::path& folder, const model::Mesh& mesh, int steps) {
  std::filesystem::create_directories(folder);
  Index index{mesh.world_size(), mesh, {}, {}};
  for (Dim rank = 0; rank < mesh.world_size(); ++rank) {
    const std::vector<LocalTensor> state = training_state(mesh, rank, steps);
    ASSERT_TRUE(write_rank_file(folder, mesh, rank, state));
    add_shards(index, rank, state);
  }
  ASSERT_TRUE(write_index(folder, index));
}

}  // namespace moecheck::checkpoint
