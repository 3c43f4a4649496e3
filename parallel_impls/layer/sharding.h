// What a parallel plan makes of the layer's parameters on one rank, before anything is loaded.
#pragma once

#include "parallel_impls/layer/layer.h"

namespace moecheck::parallel_impls {

struct Sharding {
  ParamCuts cuts;                        // by the styles that were applied
  std::map<std::string, Kept, std::less<>> kept;   // by name: the global indices that the rank keeps
  LocalExperts experts;
  std::vector<trace::PlanEntry> plan;    // as it was applied
};

// Taken from the plan entry by entry: a style that does not apply to a parameter leaves it whole.
Sharding shard_parameters(const Plan& plan, const LayerContext& context);

// A parameter with the local shape that is kept; blank.
PlacedTensor blank_parameter(const ParamInfo& param, const Sharding& sharding, const LayerContext& context);

}  // namespace moecheck::parallel_impls
