// A model family as data over a closed set of primitives; read from scenarios/models/<family>.yaml.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "harness/model/dims.h"

namespace moecheck::model {

// When the softmax over the router's logits is taken.
enum class SoftmaxOrder {
  kBeforeTopk,  // p = softmax(logits over E); top-k of p
  kAfterTopk,   // top-k of the logits; softmax over those K
};

// How a family names its tensors in a Hugging Face checkpoint; {e} is the expert.
struct CheckpointNames {
  std::string router;    // [E, D]
  std::string gate;      // [F, D], one an expert
  std::string up;        // [F, D]
  std::string down;      // [D, F]
  std::string attention; // [D, D], a passenger: sharded by real plans, not used by the MoE layer
};

struct ModelSpec {
  std::string family;
  Dim num_experts = 0;
  Dim top_k = 0;
  Dim d_model = 0;
  Dim d_ff = 0;
  SoftmaxOrder softmax = SoftmaxOrder::kBeforeTopk;
  bool renormalise = true;  // divide the K scores by their sum; without effect after top-k
  CheckpointNames names;

  Dim gate_up_rows() const { return 2 * d_ff; }  // G
};

std::string expert_tensor_name(const std::string& pattern, Dim expert);  // replaces {e}

// The tensor that holds a part of all experts, beside such a pattern: "layers.0.mlp.experts.{e}.gate_proj.weight" and "gate_up_proj"
// make "layers.0.mlp.experts.gate_up_proj".
std::string packed_tensor_name(std::string_view per_expert_pattern, std::string_view part);

}  // namespace moecheck::model
