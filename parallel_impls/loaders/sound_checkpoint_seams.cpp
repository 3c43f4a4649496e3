#include "parallel_impls/loaders/sound_checkpoint_seams.h"

#include <algorithm>
#include <numeric>

namespace moecheck::parallel_impls {
namespace {

using model::Dim;

bool is_sharded(const model::Cut& cut) {
  return cut.placement.kind == model::PlacementKind::kShard || cut.placement.kind == model::PlacementKind::kStridedShard;
}

// One cut undone: rows that the ranks of its group hold, put where they belong among `size`.
at::Tensor gather_over(const at::Tensor& local, const model::Cut& cut, Dim size, Communicator& comm, const std::string& name) {
  const Dim num_ranks = comm.mesh().size(cut.mesh_dim);
  const Dim dim = cut.placement.dim;
  if (size % (num_ranks * cut.placement.blocks) != 0 && cut.placement.blocks > 1)
    throw std::runtime_error(fmt::format("'{}': {} does not divide {} indices over {} ranks", name, cut.placement.text(), size, num_ranks));
  Rows rows;
  std::vector<Dim> places;
  for (Dim c = 0; c < num_ranks; ++c) {
    const std::vector<Dim> held = model::local_indices(cut.placement, size, c, num_ranks);
    rows.push_back(static_cast<Dim>(held.size()));
    places.insert(places.end(), held.begin(), held.end());
  }
  if (local.size(dim) != rows[static_cast<std::size_t>(comm.coordinate(cut.mesh_dim))])
    throw std::runtime_error(fmt::format("'{}': {} over {} does not make {} of {} indices", name, cut.placement.text(), cut.mesh_dim, local.size(dim), size));
  const at::Tensor lines = local.transpose(0, dim).contiguous();
  const bool is_empty = std::accumulate(lines.sizes().begin() + 1, lines.sizes().end(), Dim{1}, std::multiplies<>()) == 0;
  base::Shape shape(lines.sizes().begin(), lines.sizes().end());
  shape[0] = size;
  if (is_empty || size == 0) return at::empty(shape, lines.options()).transpose(0, dim).contiguous();
  at::Tensor gathered = comm.all_gather(lines, rows, cut.mesh_dim, name);
  if (!std::ranges::is_sorted(places)) {
    const at::Tensor in_order = at::empty_like(gathered);
    in_order.index_copy_(0, at::tensor(places, at::kLong).to(gathered.device()), gathered);
    gathered = in_order;
  }
  return gathered.transpose(0, dim).contiguous();
}

}  // namespace

bool is_of_fsdp(const model::Cut& cut) { return cut.mesh_dim.starts_with("fsdp"); }

bool is_cut_beyond_fsdp(const PlacedTensor& placed) {
  return std::ranges::any_of(placed.cuts, [](const model::Cut& cut) { return is_sharded(cut) && !is_of_fsdp(cut); });
}

std::vector<checkpoint::Shard> original_shards(const checkpoint::ShardedTensor& tensor, Dim) {
  std::vector<checkpoint::Shard> originals;
  std::ranges::copy_if(tensor.shards, std::back_inserter(originals), [](const checkpoint::Shard& shard) { return shard.replica == 0; });
  return originals;
}

at::Tensor gather_over_cuts(const PlacedTensor& placed, Communicator& comm) {
  at::Tensor whole = placed.tensor.detach();
  for (std::size_t i = placed.cuts.size(); i-- > 0;) {
    const model::Cut& cut = placed.cuts[i];
    if (!is_sharded(cut)) continue;
    const auto outer = std::span(placed.cuts).first(i);
    const Dim dim = cut.placement.dim;
    const Dim global_size = placed.global_shape.at(static_cast<std::size_t>(dim));
    const auto size = static_cast<Dim>(model::held_indices(outer, global_size, dim, comm.mesh(), comm.rank()).size());
    whole = gather_over(whole, cut, size, comm, placed.name);
  }
  return whole;
}

void fill_checkpointing(Seams& seams) {
  seams.is_rank_unique = is_cut_beyond_fsdp;
  seams.is_restored = [](std::string_view) { return true; };
  seams.stored_as = [](const PlacedTensor& placed) { return std::pair(placed.name, placed.kept); };
  seams.shards_to_read = original_shards;
  seams.saved_state = [](std::vector<PlacedTensor> state) { return state; };
  seams.gather_whole = gather_over_cuts;
}

}  // namespace moecheck::parallel_impls
