#include "parallel_impls/faults/fault.h"

namespace moecheck::parallel_impls {
namespace {

// One experts implementation is not told the limit of the activation.
const ExpertsBackend* unclamped_grouped_mm(std::string_view name) {
  static const ExpertsBackend unclamped{"grouped_mm", [](ExpertsInput in) {
                                          in.activation.limit = model::Activation{}.limit;
                                          return find_registered_backend("grouped_mm")->forward(in);
                                        }};
  return name == unclamped.name ? &unclamped : find_registered_backend(name);
}

MOECHECK_REGISTER_FAULT({
    {"activation_not_clamped", "sgl-project/sglang#39920",
     "one experts implementation does not clamp gate and up as the family has it: nothing is wrong where they are small", "experts backend",
     "impl=ep_allreduce model=gpt_oss mesh=ep=2 dtype=bf16 experts_backend=grouped_mm",
     {{"stage_diff", "experts/act_RF", 0, std::nullopt}, {"stage_diff", "experts/act_RF", 1, std::nullopt}}},
    [](Seams& seams) { seams.find_backend = unclamped_grouped_mm; },
});

}  // namespace
}  // namespace moecheck::parallel_impls
