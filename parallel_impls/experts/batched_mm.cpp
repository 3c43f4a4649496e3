// One batched matmul over all T*K slots with gathered weights. Slots of experts that live elsewhere are computed with a
// clamped id and masked afterwards.
#include "parallel_impls/experts/rows.h"

namespace moecheck::parallel_impls {
namespace {

ExpertsOutput forward(const ExpertsInput& in) {
  const FlatSlots flat = flatten_slots(in.slots);
  const at::Tensor clamped_N = flat.ids_N.clamp_max(in.local.count - 1);
  const at::Tensor x_ND = in.scores.rows(in.x_TD.index_select(0, flat.token_N), flat.scores_N);
  const at::Tensor gate_up_NG = at::bmm(in.gate_up_EGD.index_select(0, clamped_N), x_ND.unsqueeze(2)).squeeze(2);
  const at::Tensor act_NF = activated(gate_up_NG, in.activation);
  const at::Tensor out_ND = at::bmm(in.down_EDF.index_select(0, clamped_N), act_NF.unsqueeze(2)).squeeze(2);
  const at::Tensor is_elsewhere = (flat.ids_N >= in.local.count).unsqueeze(1);
  const at::Tensor weighted_ND = in.scores.weighted(out_ND, flat.scores_N).masked_fill(is_elsewhere, 0.0);
  const at::Tensor partial_TD = weighted_ND.view({in.x_TD.size(0), in.slots.ids_TK.size(1), in.x_TD.size(1)}).sum(1);
  return {partial_TD, row_keys(flat.token_N, flat.slot_N, flat.ids_N, in.local.count), {x_ND}, {gate_up_NG}, {act_NF}, {out_ND}};
}

MOECHECK_REGISTER_BACKEND({"batched_mm", forward});

}  // namespace
}  // namespace moecheck::parallel_impls
