#include "parallel_impls/loaders/loader.h"

#include <algorithm>

#include <c10/core/GradMode.h>

#include "parallel_impls/loaders/all_ranks.h"
#include "parallel_impls/loaders/slices.h"
#include "parallel_impls/loaders/sound_checkpoint_seams.h"

namespace moecheck::parallel_impls {
namespace {

using model::Cut;
using model::Dim;

// The cuts that fsdp makes, or the others.
std::vector<Cut> cuts_where(const PlacedTensor& placed, bool is_fsdp) {
  std::vector<Cut> cuts;
  std::ranges::copy_if(placed.cuts, std::back_inserter(cuts), [&](const Cut& cut) { return is_of_fsdp(cut) == is_fsdp; });
  return cuts;
}

bool is_cut_along(const std::vector<Cut>& cuts, std::size_t dim) {
  return std::ranges::any_of(cuts, [&](const Cut& cut) {
    return cut.placement.kind != model::PlacementKind::kReplicate && cut.placement.dim == static_cast<Dim>(dim);
  });
}

class Filler {
 public:
  Filler(const Source& source, LayerContext& context)
      : source_(source), context_(context), comm_(*context.comm), loader_(context.one.checkpointing.loader) {}

  void fill(PlacedTensor& placed) const {
    if (!context_.seams.is_restored(placed.name)) return;
    const auto [name, kept] = context_.seams.stored_as(placed);
    if (!source_.has(name)) return;
    if (loader_ == cases::Loader::kFullThenShard) return put(take(source_.read(name, keep_all(placed.global_shape)), kept), placed);
    if (loader_ == cases::Loader::kRank0Broadcast && !context_.seams.is_rank_unique(placed)) return put(take_broadcast(name, kept, placed), placed);
    put(source_.read(name, kept), placed);
  }

 private:
  // "Full" is what rank 0 holds when the fsdp group has gathered it; each rank cuts its own fsdp piece out of that. For a tensor that
  // nothing but fsdp cuts it is the global one.
  at::Tensor take_broadcast(const std::string& name, const Kept& kept, const PlacedTensor& placed) const {
    const std::vector<Cut> fsdp = cuts_where(placed, true);
    const std::vector<Cut> others = cuts_where(placed, false);
    const base::Shape full_shape = model::held_shape(others, placed.global_shape, comm_.mesh(), 0);
    at::Tensor full = at::empty(full_shape, placed.tensor.options().device(context_.device));
    if (comm_.rank() == 0) put(source_.read(name, without_fsdp(kept, fsdp, others, placed)), name, full);
    comm_.broadcast(full, 0, all_dims(comm_.mesh()), placed.name);
    Kept piece;
    for (std::size_t d = 0; d < full_shape.size(); ++d)
      piece.push_back(ranges_of(model::held_indices(fsdp, full_shape[d], static_cast<Dim>(d), comm_.mesh(), comm_.rank())));
    return take(full, piece);
  }

  Kept without_fsdp(Kept kept, const std::vector<Cut>& fsdp, const std::vector<Cut>& others, const PlacedTensor& placed) const {
    for (std::size_t d = 0; d < kept.size(); ++d)
      if (is_cut_along(fsdp, d))
        kept[d] = ranges_of(model::held_indices(others, placed.global_shape[d], static_cast<Dim>(d), comm_.mesh(), comm_.rank()));
    return kept;
  }

  static void put(const at::Tensor& read, PlacedTensor& placed) { put(read, placed.name, placed.tensor); }

  // Nothing is cast or broadcast to fit.
  static void put(const at::Tensor& read, const std::string& name, at::Tensor& into) {
    if (read.scalar_type() != into.scalar_type())
      throw FileFailure(fmt::format("checkpoint: '{}' is stored as {}, a rank keeps {}", name, c10::toString(read.scalar_type()),
                                    c10::toString(into.scalar_type())));
    if (read.sizes() != into.sizes())
      throw std::runtime_error(fmt::format("checkpoint: '{}' was read with shape {}, a rank keeps {}", name, base::shape_text(read.sizes().vec()),
                                           base::shape_text(into.sizes().vec())));
    into.copy_(read);
  }

  const Source& source_;
  LayerContext& context_;
  Communicator& comm_;
  cases::Loader loader_;
};

}  // namespace

std::vector<trace::DeclaredCollective> declared_of_fill(const std::vector<PlacedTensor>& filled, const cases::Case& one) {
  std::vector<trace::DeclaredCollective> all;
  const std::string group = group_name(one.problem.mesh, all_dims(one.problem.mesh));
  if (one.checkpointing.loader != cases::Loader::kRank0Broadcast || group.empty()) return all;
  for (const PlacedTensor& placed : filled) {
    const auto bytes = base::num_elements(placed.global_shape) * static_cast<Dim>(placed.tensor.element_size());
    if (!is_cut_beyond_fsdp(placed)) all.push_back({"broadcast", group, placed.name, 1, bytes});
  }
  return all;
}

void fill(std::vector<PlacedTensor>& into, const Source& source, LayerContext& context) {
  const c10::AutoGradMode off(false);
  const Filler filler(source, context);
  for (PlacedTensor& placed : into) filler.fill(placed);
}

}  // namespace moecheck::parallel_impls
