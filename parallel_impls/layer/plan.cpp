#include "parallel_impls/layer/plan.h"

#include <array>
#include <fnmatch.h>
#include <stdexcept>

#include <fmt/format.h>

namespace moecheck::parallel_impls {
namespace {

PlanEntry entry(std::string_view pattern, Style style) { return {std::string(pattern), style}; }

constexpr std::string_view kAllExperts = "experts.*";

struct NamedStyle {
  Style style;
  std::string_view name;
};
constexpr std::array kStyles = {NamedStyle{Style::kReplicate, "replicate"},         NamedStyle{Style::kGroupedGemm, "grouped_gemm"},
                                NamedStyle{Style::kPackedColwise, "packed_colwise"}, NamedStyle{Style::kExpertRowwise, "expert_rowwise"},
                                NamedStyle{Style::kRowwise, "rowwise"},              NamedStyle{Style::kEpRouter, "ep_router"},
                                NamedStyle{Style::kFsdp, "fsdp"},                    NamedStyle{Style::kFsdpExperts, "fsdp_experts"}};

}  // namespace

const Plan& expert_parallel_plan() {
  static const Plan plan = {entry(kRouter, Style::kEpRouter), entry(kAllExperts, Style::kGroupedGemm)};
  return plan;
}

const Plan& tensor_parallel_plan() {
  static const Plan plan = {entry(kAttention, Style::kRowwise), entry(kRouter, Style::kReplicate), entry(kGateUp, Style::kPackedColwise),
                            entry(kDown, Style::kExpertRowwise)};
  return plan;
}

const Plan& expert_and_tensor_parallel_plan(model::ExpertTp expert_tp) {
  static const Plan lent = {entry(kAttention, Style::kRowwise), entry(kRouter, Style::kReplicate), entry(kAllExperts, Style::kGroupedGemm)};
  static const Plan cut = {entry(kAttention, Style::kRowwise), entry(kRouter, Style::kReplicate), entry(kAllExperts, Style::kGroupedGemm),
                           entry(kGateUp, Style::kPackedColwise), entry(kDown, Style::kExpertRowwise)};
  return expert_tp == model::ExpertTp::kOne ? lent : cut;
}

const Plan& expert_parallel_and_fsdp_plan() {
  static const Plan plan = {entry(kAttention, Style::kFsdp), entry(kRouter, Style::kFsdp), entry(kAllExperts, Style::kGroupedGemm),
                            entry(kAllExperts, Style::kFsdpExperts)};
  return plan;
}

const Plan& replicated_plan() {
  static const Plan plan = {entry("*", Style::kReplicate)};
  return plan;
}

std::string_view style_name(Style style) {
  for (const NamedStyle& row : kStyles)
    if (row.style == style) return row.name;
  return "";
}

bool matches(const PlanEntry& entry, std::string_view parameter) {
  return ::fnmatch(entry.pattern.c_str(), std::string(parameter).c_str(), 0) == 0;
}

Style find_style(const Plan& plan, std::string_view parameter) {
  for (const PlanEntry& entry : plan)
    if (matches(entry, parameter)) return entry.style;
  throw std::out_of_range(fmt::format("KeyError: '{}'", parameter));
}

std::optional<model::Cut> promised_cut(Style style, model::Dim num_dims, const model::Problem& problem) {
  const auto over = [&](std::string dims, model::Placement placement) -> std::optional<model::Cut> {
    if (problem.mesh.size(dims) == 1) return std::nullopt;
    return model::Cut{std::move(dims), placement};
  };
  switch (style) {
    case Style::kReplicate:
    case Style::kEpRouter: return std::nullopt;
    case Style::kGroupedGemm: return over(problem.expert_dims(), model::shard(0));
    case Style::kPackedColwise: return over("tp", model::strided_shard(1, 2));
    case Style::kExpertRowwise:
    case Style::kRowwise: return over("tp", model::shard(num_dims - 1));
    // Without fsdp in the mesh nothing is sharded, however many ranks hold different tokens.
    case Style::kFsdp: return problem.mesh.size("fsdp") == 1 ? std::nullopt : over(problem.shards_tokens("ep") ? "fsdp,ep" : "fsdp", model::shard(0));
    case Style::kFsdpExperts: return over("fsdp", model::shard(1));
  }
  return std::nullopt;
}

std::optional<model::Cut> applied_cut(Style style, model::Dim num_dims, const model::Problem& problem) {
  const bool is_for_modules = style == Style::kRowwise;
  if (is_for_modules && num_dims != 2) return std::nullopt;
  return promised_cut(style, num_dims, problem);
}

}  // namespace moecheck::parallel_impls
