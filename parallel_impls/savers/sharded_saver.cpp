#include <set>

#include "harness/checkpoint/commit.h"
#include "harness/checkpoint/save_rank.h"
#include "parallel_impls/layer/tensor_bridge.h"
#include "parallel_impls/savers/saver.h"
#include "parallel_impls/savers/staging.h"

namespace moecheck::parallel_impls {
namespace {

using cases::CrashPoint;
using model::Cut;
using model::Dim;

std::runtime_error cannot_save(const PlacedTensor& placed, const std::string& why) {
  return std::runtime_error(fmt::format("save: '{}' {}", placed.name, why));
}

// A strided cut of what the cuts before it left has to come out even, on each rank.
bool is_divisible(const std::vector<Cut>& cuts, std::size_t i, const base::Shape& global, const model::Mesh& mesh) {
  const Cut& cut = cuts[i];
  if (cut.placement.blocks == 1) return true;
  const Dim size = global.at(static_cast<std::size_t>(cut.placement.dim));
  for (Dim rank = 0; rank < mesh.world_size(); ++rank) {
    const auto left = static_cast<Dim>(model::held_indices(std::span(cuts).first(i), size, cut.placement.dim, mesh, rank).size());
    if (left % (mesh.size(cut.mesh_dim) * cut.placement.blocks) != 0) return false;
  }
  return true;
}

// What a tensor says of itself must be true before it is written down.
void refuse_misplaced(const PlacedTensor& placed, const Communicator& comm) {
  for (std::size_t i = 0; i < placed.cuts.size(); ++i) {
    const Cut& cut = placed.cuts[i];
    if (cut.placement.kind == model::PlacementKind::kPartial) throw cannot_save(placed, "is a partial sum");
    if (cut.placement.dim >= static_cast<Dim>(placed.global_shape.size()))
      throw cannot_save(placed, fmt::format("has no dimension {}", cut.placement.dim));
    if (!is_divisible(placed.cuts, i, placed.global_shape, comm.mesh()))
      throw cannot_save(placed, fmt::format("is not divided evenly by {} over {}", cut.placement.text(), cut.mesh_dim));
  }
  const base::Shape local = placed.tensor.sizes().vec();
  const base::Shape promised = model::held_shape(placed.cuts, placed.global_shape, comm.mesh(), comm.rank());
  if (local != promised)
    throw cannot_save(placed, fmt::format("has shape {}, its cuts ({}) of {} make {}", base::shape_text(local), model::text(placed.cuts),
                                          base::shape_text(placed.global_shape), base::shape_text(promised)));
}

// On the host; a tensor that is there already is not copied.
base::HostTensor on_host(const at::Tensor& tensor) {
  auto dense = std::make_shared<at::Tensor>(tensor.detach().cpu().contiguous());
  const auto* bytes = static_cast<const std::byte*>(dense->const_data_ptr());
  return {from_torch(dense->scalar_type()), dense->sizes().vec(), std::move(dense), bytes};
}

std::vector<checkpoint::LocalTensor> local_tensors(const std::vector<PlacedTensor>& saved, const Communicator& comm) {
  std::vector<checkpoint::LocalTensor> locals;
  std::set<std::string> names;
  for (const PlacedTensor& placed : saved) {
    if (!names.insert(placed.name).second) throw cannot_save(placed, "is saved twice");
    refuse_misplaced(placed, comm);
    locals.push_back({placed.name, on_host(placed.tensor), placed.cuts, placed.global_shape});
  }
  return locals;
}

base::Status write_index(const std::filesystem::path& staging, const model::Mesh& mesh, const std::vector<checkpoint::LocalTensor>& locals) {
  checkpoint::Index index{mesh.world_size(), mesh, {}, {}};
  for (Dim rank = 0; rank < mesh.world_size(); ++rank) checkpoint::add_shards(index, rank, locals);
  return checkpoint::write_index(staging, std::move(index));
}

}  // namespace

void save_sharded(const std::vector<PlacedTensor>& state, const std::filesystem::path& folder, LayerContext& context, const SavePoint& reached) {
  const Communicator& comm = *context.comm;
  const std::vector<checkpoint::LocalTensor> locals = local_tensors(context.seams.saved_state(state), comm);
  const std::filesystem::path staging = checkpoint::staging_of(folder);
  const bool is_first = comm.rank() == 0;
  // Nobody writes before what an earlier save left is gone.
  agree(is_first ? checkpoint::begin_staging(folder) : base::Status(base::Ok{}), context, "save/staged");
  try {
    reach(reached, CrashPoint::kStaged);
    const auto write = [&] { return checkpoint::write_rank_file(staging, comm.mesh(), comm.rank(), locals); };
    const base::Status written = write_whole(staging / checkpoint::rank_file(comm.rank()), write, reached);
    if (written) reach(reached, CrashPoint::kFiles);
    agree(written, context, "save/files");
    base::Status committed = base::Ok{};
    if (is_first) {
      committed = write_index(staging, comm.mesh(), locals);
      if (committed) reach(reached, CrashPoint::kIndex);
      if (committed) committed = checkpoint::commit(folder);
      if (committed) reach(reached, CrashPoint::kCommitted);
    }
    agree(committed, context, "save/committed");
  } catch (const FileFailure&) {   // all agreed to give up; a rank that died leaves what it wrote
    if (is_first) remove_staging(folder);
    throw;
  }
}

}  // namespace moecheck::parallel_impls
