#include "parallel_impls/experts/grouped_mm.h"
#include "parallel_impls/faults/fault.h"

namespace moecheck::parallel_impls {
namespace {

// Sentinel ids are sorted and counted as they are: they lie outside the bins, the grouped GEMM never writes their rows, and
// a zero score is trusted to remove what stands there.
const SentinelTreatment kTrustZeroScores = {
    [](const at::Tensor& ids_N, model::Dim) { return ids_N; },
    [](const at::Tensor& weighted_ND, const at::Tensor&) { return weighted_ND; },
};

const ExpertsBackend* unclamped_grouped_mm(std::string_view name) {
  static const ExpertsBackend unclamped{"grouped_mm", [](const ExpertsInput& in) { return grouped_mm_forward(in, kTrustZeroScores); }};
  return name == unclamped.name ? &unclamped : find_registered_backend(name);
}

MOECHECK_REGISTER_FAULT({
    {"sentinel_not_computed", "S03, transformers#45473 (3)",
     "rows of slots whose expert lives elsewhere are never written by the grouped GEMM, then multiplied by 0 and summed",
     "experts backend", "impl=ep_allreduce model=mixtral mesh=ep=2 dtype=bf16 experts_backend=grouped_mm",
     {{"nonfinite", "combine/partial_TD", 0, 9}, {"nonfinite", "combine/partial_TD", 1, 3}}},
    [](Seams& seams) { seams.find_backend = unclamped_grouped_mm; },
});

}  // namespace
}  // namespace moecheck::parallel_impls
