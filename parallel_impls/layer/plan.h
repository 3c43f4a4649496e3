// A parallel plan as data: name pattern -> style. Names are the layer's own, after conversion from the checkpoint.
// Several entries may match a parameter: each style cuts what the ones before left.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "harness/model/placement.h"
#include "harness/model/problem.h"

namespace moecheck::parallel_impls {

enum class Style {
  kReplicate,
  kGroupedGemm,     // dim 0, the experts, over ep (over ep and tp if tp is lent to the experts)
  kPackedColwise,   // the packed G dim over tp: each rank a piece of gate and the same piece of up
  kExpertRowwise,   // the last dim of a 3-D parameter over tp
  kRowwise,         // module-level: the last dim of a 2-D weight over tp; without effect on anything else
  kEpRouter,        // replicated weight; scores and ids are remapped in the forward
  kFsdp,            // dim 0 over all ranks that hold different tokens, gathered on use
  kFsdpExperts,     // dim 1 over fsdp, gathered on use
};

struct PlanEntry {
  std::string pattern;  // of parameter names, with * and ?
  Style style;
};

using Plan = std::vector<PlanEntry>;

inline constexpr std::string_view kAttention = "attention.w_o";
inline constexpr std::string_view kRouter = "router.weight";
inline constexpr std::string_view kGateUp = "experts.gate_up";
inline constexpr std::string_view kDown = "experts.down";

// The published plans of a family: expert parallelism replaces the whole of the tensor-parallel one.
const Plan& expert_parallel_plan();
const Plan& tensor_parallel_plan();
// Expert parallelism beside tensor parallelism, which cuts the experts too or is lent to them.
const Plan& expert_and_tensor_parallel_plan(model::ExpertTp expert_tp);
const Plan& expert_parallel_and_fsdp_plan();
const Plan& replicated_plan();

std::string_view style_name(Style style);
// The name fits the entry's pattern.
bool matches(const PlanEntry& entry, std::string_view parameter);
// Requires an entry. Errors: std::out_of_range with the parameter's name.
Style find_style(const Plan& plan, std::string_view parameter);

// What a style says that it does to a parameter with `num_dims` dimensions under the problem's mesh; none if it shards nothing.
std::optional<model::Cut> promised_cut(Style style, model::Dim num_dims, const model::Problem& problem);
// What it really does: nothing where it does not apply to such a parameter.
std::optional<model::Cut> applied_cut(Style style, model::Dim num_dims, const model::Problem& problem);

}  // namespace moecheck::parallel_impls
