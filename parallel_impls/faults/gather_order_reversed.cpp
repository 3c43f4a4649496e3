#include <algorithm>

#include "parallel_impls/faults/fault.h"
#include "parallel_impls/loaders/sound_checkpoint_seams.h"

namespace moecheck::parallel_impls {
namespace {

// The pieces of a cut over two mesh dimensions, laid down as if the ranks of the inner one were the outer ones.
at::Tensor swapped(const at::Tensor& whole, const model::Cut& cut, const model::Mesh& mesh) {
  const auto comma = cut.mesh_dim.find(',');
  if (comma == std::string::npos) return whole;
  const model::Dim dim = cut.placement.dim, outer = mesh.size(cut.mesh_dim.substr(0, comma)), inner = mesh.size(cut.mesh_dim.substr(comma + 1));
  return whole.unflatten(dim, {outer, inner, whole.size(dim) / (outer * inner)}).transpose(dim, dim + 1).flatten(dim, dim + 2).contiguous();
}

// The right ranks are asked, and what they send is put together in the wrong order.
at::Tensor gather_innermost_first(const PlacedTensor& placed, Communicator& comm) {
  at::Tensor whole = gather_over_cuts(placed, comm);
  for (const model::Cut& cut : placed.cuts) whole = swapped(whole, cut, comm.mesh());
  return whole;
}

MOECHECK_REGISTER_FAULT({
    {"gather_order_reversed", "L12, pytorch#129206, pytorch#129229",
     "a tensor that two mesh dimensions cut along one of its own is gathered in the wrong order: all rows are there, at other places", "gather_whole",
     "impl=ep_tp model=mixtral mesh=ep=2,tp=2 expert_tp=one dtype=bf16 save=huggingface",
     {{"checkpoint_census", "param/experts/gate_up_EGD", 1, 3}, {"checkpoint_census", "param/experts/gate_up_EGD", 2, 6}}},
    [](Seams& seams) { seams.gather_whole = gather_innermost_first; },
});

}  // namespace
}  // namespace moecheck::parallel_impls
