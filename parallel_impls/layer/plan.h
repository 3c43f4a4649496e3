// A parallel plan as data: parameter name -> style. Names are the layer's own, after conversion from the checkpoint.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace moecheck::parallel_impls {

enum class Style {
  kReplicate,
  kGroupedGemm,     // dim 0, the experts, over ep
  kPackedColwise,   // the packed G dim over tp: each rank a piece of gate and the same piece of up
  kRowwise,         // the last dim over tp
  kEpRouter,        // replicated weight; scores and ids are remapped in the forward
};

struct PlanEntry {
  std::string parameter;  // a parameter name
  Style style;
};

using Plan = std::vector<PlanEntry>;

inline constexpr std::string_view kAttention = "attention.w_o";
inline constexpr std::string_view kRouter = "router.weight";
inline constexpr std::string_view kGateUp = "experts.gate_up";
inline constexpr std::string_view kDown = "experts.down";

// The two published plans of a family: expert parallelism replaces the whole of the tensor-parallel one.
const Plan& expert_parallel_plan();
const Plan& tensor_parallel_plan();

// Requires an entry. Errors: std::out_of_range with the parameter's name.
Style find_style(const Plan& plan, std::string_view parameter);

}  // namespace moecheck::parallel_impls
