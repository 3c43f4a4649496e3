// One expert after the other: gather its rows, three matmuls, scatter-add.
#include "parallel_impls/experts/rows.h"

namespace moecheck::parallel_impls {
namespace {

ExpertsOutput forward(const ExpertsInput& in) {
  const FlatSlots flat = flatten_slots(in.slots);
  at::Tensor partial_TD = at::zeros_like(in.x_TD);
  std::vector<at::Tensor> keys, rows_in, gate_up, act, out;
  for (model::Dim e = 0; e < in.local.count; ++e) {
    const at::Tensor rows = at::nonzero(flat.ids_N == e).squeeze(1);
    const at::Tensor token_R = flat.token_N.index_select(0, rows);
    const at::Tensor scores_R = flat.scores_N.index_select(0, rows);
    const at::Tensor in_RD = in.scores.rows(in.x_TD.index_select(0, token_R), scores_R);
    const at::Tensor gate_up_RG = at::linear(in_RD, in.gate_up_EGD[e]);
    const at::Tensor act_RF = activated(gate_up_RG, in.activation);
    const at::Tensor out_RD = at::linear(act_RF, in.down_EDF[e]);
    partial_TD.index_add_(0, token_R, in.scores.weighted(out_RD, scores_R));
    keys.push_back(row_keys(token_R, flat.slot_N.index_select(0, rows), flat.ids_N.index_select(0, rows), in.local.count));
    rows_in.push_back(in_RD);
    gate_up.push_back(gate_up_RG);
    act.push_back(act_RF);
    out.push_back(out_RD);
  }
  return {partial_TD, at::cat(keys), rows_in, gate_up, act, out};
}

MOECHECK_REGISTER_BACKEND({"eager", forward});

}  // namespace
}  // namespace moecheck::parallel_impls
