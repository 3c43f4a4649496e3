#include <algorithm>

#include "parallel_impls/faults/fault.h"

namespace moecheck::parallel_impls {
namespace {

// What to shard is read off the tensor-parallel plan, how to shard it is looked up in the plan in force.
std::vector<Style> what_from_one_plan_how_from_another(const Plan& plan, std::string_view parameter) {
  const Plan& what = tensor_parallel_plan();
  const bool is_named = std::ranges::any_of(what, [&](const PlanEntry& entry) { return matches(entry, parameter); });
  return is_named ? std::vector{find_style(plan, parameter)} : std::vector<Style>{};
}

MOECHECK_REGISTER_FAULT({
    {"plan_property_mismatch", "S02, transformers#45473 (2)",
     "what to shard comes from the tensor-parallel plan, how from the expert-parallel one: KeyError for attention parameters",
     "styles_of", "impl=ep_allreduce model=qwen3_moe mesh=ep=2 dtype=fp32",
     {{"phase_completion", "load", 0, std::nullopt}, {"phase_completion", "load", 1, std::nullopt}}},
    [](Seams& seams) { seams.styles_of = what_from_one_plan_how_from_another; },
});

}  // namespace
}  // namespace moecheck::parallel_impls
