// The layer's parameters: what they are called, where they are tapped, and how a rank holds them.
#pragma once

#include <array>
#include <map>
#include <string>
#include <vector>

#include <ATen/ATen.h>

#include "harness/trace/trace.h"
#include "parallel_impls/layer/plan.h"

namespace moecheck::parallel_impls {

// Local parameters of one rank, or what lies as they do: gradients, optimizer state.
struct LayerParams {
  at::Tensor attention_DD;
  at::Tensor router_ED;
  at::Tensor gate_up_EGD;
  at::Tensor down_EDF;
};

struct ParamInfo {
  std::string_view name;        // in plans
  std::string_view tap;         // after "param/", "grad/", "optim/m/" ...
  at::Tensor LayerParams::*member;
  model::Dim num_dims;
};

inline constexpr ParamInfo kAttentionParam{kAttention, "attention/w_DD", &LayerParams::attention_DD, 2};
// What has gradients. Attention is a passenger: real plans shard it, the layer does not compute with it.
inline constexpr std::array<ParamInfo, 3> kTrainable = {ParamInfo{kRouter, "router/w_ED", &LayerParams::router_ED, 2},
                                                        ParamInfo{kGateUp, "experts/gate_up_EGD", &LayerParams::gate_up_EGD, 3},
                                                        ParamInfo{kDown, "experts/down_EDF", &LayerParams::down_EDF, 3}};

inline constexpr std::array<ParamInfo, 4> kAllParams = {kAttentionParam, kTrainable[0], kTrainable[1], kTrainable[2]};

inline std::string tap_of(std::string_view prefix, const ParamInfo& param) { return std::string(prefix) + "/" + std::string(param.tap); }

using ParamCuts = std::map<std::string, std::vector<model::Cut>, std::less<>>;   // by name

inline std::vector<model::Cut> cuts_of(const ParamCuts& cuts, std::string_view parameter) {
  const auto found = cuts.find(parameter);
  return found == cuts.end() ? std::vector<model::Cut>{} : found->second;
}

// The mesh dimensions that a tensor is cut over, as a Communicator takes them: "ep,tp".
inline std::string dims_of(const std::vector<model::Cut>& cuts) {
  std::string dims;
  for (const model::Cut& cut : cuts) dims += (dims.empty() ? "" : ",") + cut.mesh_dim;
  return dims;
}

struct LocalExperts {
  model::Dim first = 0;   // global id of local expert 0
  model::Dim count = 0;   // e
};

}  // namespace moecheck::parallel_impls
