// The grouped GEMM backend, with the treatment of sentinel slots as a parameter: the fault sentinel_not_computed is the
// same code without the clamp.
#pragma once

#include "parallel_impls/layer/seams.h"

namespace moecheck::parallel_impls {

// `sortable_ids`: maps local ids with sentinels to the ids that are sorted and counted.
// `finish`: turns weighted rows (N, D), in sorted order, into what is summed, given which rows belong elsewhere.
struct SentinelTreatment {
  std::function<at::Tensor(const at::Tensor& ids_N, model::Dim num_local)> sortable_ids;
  std::function<at::Tensor(const at::Tensor& weighted_ND, const at::Tensor& is_elsewhere_N1)> finish;
};

ExpertsOutput grouped_mm_forward(const ExpertsInput& in, const SentinelTreatment& treatment);

}  // namespace moecheck::parallel_impls
