#include "parallel_impls/faults/fault.h"

namespace moecheck::parallel_impls {
namespace {

Plan with_module_style_on_experts(Plan plan) {
  plan.push_back({"experts.*", Style::kRowwise});
  return plan;
}

MOECHECK_REGISTER_FAULT({
    {"dead_plan_entry", "S14, transformers#46290",
     "a module-level style is declared on the 3-D expert parameters, where it does nothing; other entries do the work", "plan",
     "impl=tp_sharded model=qwen3_moe mesh=tp=2 dtype=bf16",
     {{"placement", "load", 0, std::nullopt}, {"placement", "load", 1, std::nullopt}}},
    [](Seams& seams) { seams.plan = with_module_style_on_experts; },
});

}  // namespace
}  // namespace moecheck::parallel_impls
