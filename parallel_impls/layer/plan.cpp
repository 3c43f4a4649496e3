#include "parallel_impls/layer/plan.h"

#include <stdexcept>

#include <fmt/format.h>

namespace moecheck::parallel_impls {

const Plan& expert_parallel_plan() {
  static const Plan plan = {{std::string(kRouter), Style::kEpRouter},
                            {std::string(kGateUp), Style::kGroupedGemm},
                            {std::string(kDown), Style::kGroupedGemm}};
  return plan;
}

const Plan& tensor_parallel_plan() {
  static const Plan plan = {{std::string(kAttention), Style::kRowwise},
                            {std::string(kRouter), Style::kReplicate},
                            {std::string(kGateUp), Style::kPackedColwise},
                            {std::string(kDown), Style::kRowwise}};
  return plan;
}

Style find_style(const Plan& plan, std::string_view parameter) {
  for (const PlanEntry& entry : plan)
    if (entry.parameter == parameter) return entry.style;
  throw std::out_of_range(fmt::format("KeyError: '{}'", parameter));
}

}  // namespace moecheck::parallel_impls
