#include "parallel_impls/experts/grouped_mm.h"
#include "parallel_impls/faults/fault.h"

namespace moecheck::parallel_impls {
namespace {

// The forward masks what the grouped GEMM did not write; its backward leaves the same rows of the input gradient unwritten.
const SentinelTreatment kMaskOnly = {
    [](const at::Tensor& ids_N, model::Dim) { return ids_N; },
    [](const at::Tensor& weighted_ND, const at::Tensor& is_elsewhere_N1) { return weighted_ND.masked_fill(is_elsewhere_N1, 0.0); },
};

const ExpertsBackend* masked_grouped_mm(std::string_view name) {
  static const ExpertsBackend masked{"grouped_mm", [](const ExpertsInput& in) { return grouped_mm_forward(in, kMaskOnly); }};
  return name == masked.name ? &masked : find_registered_backend(name);
}

MOECHECK_REGISTER_FAULT({
    {"sentinel_grad_unwritten", "N01, transformers#48205 (1)",
     "rows of slots whose expert lives elsewhere are masked in the forward only: their unwritten input gradient becomes NaN",
     "experts backend", "impl=ep_allreduce model=mixtral mesh=ep=2 dtype=bf16 experts_backend=grouped_mm phases=load,forward,backward",
     {{"nonfinite", "grad/x_TD", 0, std::nullopt}, {"nonfinite", "grad/x_TD", 1, std::nullopt}}},
    [](Seams& seams) { seams.find_backend = masked_grouped_mm; },
});

}  // namespace
}  // namespace moecheck::parallel_impls
