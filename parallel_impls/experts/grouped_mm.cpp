// Rows sorted by expert, one grouped GEMM for all experts: at::_grouped_mm, whose rows beyond the last offset stay unwritten.
#include "parallel_impls/experts/grouped_mm.h"

#include "parallel_impls/experts/rows.h"

namespace moecheck::parallel_impls {
namespace {

// Clamped before the sort, so that every row lies in a group and is written; masked after the weighting.
const SentinelTreatment kClampAndMask = {
    [](const at::Tensor& ids_N, model::Dim num_local) { return ids_N.clamp_max(num_local - 1); },
    [](const at::Tensor& weighted_ND, const at::Tensor& is_elsewhere_N1) { return weighted_ND.masked_fill(is_elsewhere_N1, 0.0); },
};

MOECHECK_REGISTER_BACKEND({"grouped_mm", [](const ExpertsInput& in) { return grouped_mm_forward(in, kClampAndMask); }});

}  // namespace

ExpertsOutput grouped_mm_forward(const ExpertsInput& in, const SentinelTreatment& treatment) {
  const FlatSlots flat = flatten_slots(in.slots);
  const at::Tensor sortable_N = treatment.sortable_ids(flat.ids_N, in.local.count);
  const at::Tensor order_N = at::argsort(sortable_N, /*stable=*/true, /*dim=*/0, /*descending=*/false);
  const auto sorted = [&](const at::Tensor& values) { return values.index_select(0, order_N); };
  // The last bin of histc is closed; a sentinel id lies above it and is not counted.
  const at::Tensor counts_e = at::histc(sortable_N.to(at::kFloat), in.local.count, 0, static_cast<double>(in.local.count - 1));
  const at::Tensor ends_e = counts_e.cumsum(0).to(at::kInt);
  const at::Tensor scores_N = sorted(flat.scores_N);
  const at::Tensor x_ND = in.scores.rows(in.x_TD.index_select(0, sorted(flat.token_N)), scores_N);
  const at::Tensor gate_up_NG = at::_grouped_mm(x_ND, in.gate_up_EGD.transpose(-2, -1), ends_e);
  const at::Tensor act_NF = activated(gate_up_NG, in.activation);
  const at::Tensor out_ND = at::_grouped_mm(act_NF, in.down_EDF.transpose(-2, -1), ends_e);
  const at::Tensor is_elsewhere_N1 = sorted(flat.ids_N >= in.local.count).unsqueeze(1);
  const at::Tensor weighted_ND = treatment.finish(in.scores.weighted(out_ND, scores_N), is_elsewhere_N1);
  const at::Tensor back_N = at::argsort(order_N);
  const at::Tensor partial_TD =
      weighted_ND.index_select(0, back_N).view({in.x_TD.size(0), in.slots.ids_TK.size(1), in.x_TD.size(1)}).sum(1);
  return {partial_TD, row_keys(sorted(flat.token_N), sorted(flat.slot_N), sorted(flat.ids_N), in.local.count), {x_ND}, {gate_up_NG},
          {act_NF}, {out_ND}};
}

}  // namespace moecheck::parallel_impls
