// The (token, slot) grid of routed rows, flattened as the frameworks do: row n = token * K + slot.
#pragma once

#include "parallel_impls/layer/seams.h"

namespace moecheck::parallel_impls {

struct FlatSlots {
  at::Tensor token_N;
  at::Tensor slot_N;
  at::Tensor ids_N;      // local ids, e for the sentinel
  at::Tensor scores_N;   // element n of the flattened scores: pairing is by position
};

inline FlatSlots flatten_slots(const RoutedSlots& slots) {
  const at::Tensor n = at::arange(slots.ids_TK.numel(), slots.ids_TK.options());
  const model::Dim k = slots.ids_TK.size(1);
  return {n.div(k, "floor"), n.remainder(k), slots.ids_TK.reshape({-1}), slots.scores_TK.reshape({-1}).narrow(0, 0, n.numel())};
}

// The clamped one as GPT-OSS composes it: an operation of the tensor library each.
inline at::Tensor activated(const at::Tensor& gate_up_RG, const model::Activation& activation) {
  const auto halves = gate_up_RG.chunk(2, -1);
  if (activation.is_silu()) return at::silu(halves[0]) * halves[1];
  const at::Tensor gate_RF = halves[0].clamp_max(activation.limit);
  const at::Tensor up_RF = halves[1].clamp(-activation.limit, activation.limit);
  return (up_RF + activation.up_shift) * (gate_RF * at::sigmoid(gate_RF * activation.alpha));
}

// (token, slot, expert) of each row; -1 as the expert of rows that are only padding.
inline at::Tensor row_keys(const at::Tensor& token_R, const at::Tensor& slot_R, const at::Tensor& ids_R, model::Dim num_local) {
  return at::stack({token_R, slot_R, ids_R.masked_fill(ids_R >= num_local, -1)}, 1);
}

}  // namespace moecheck::parallel_impls
