// A model family as data over a closed set of primitives; read from scenarios/models/<family>.yaml.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>

#include "harness/model/dims.h"

namespace moecheck::model {

// What makes routing weights of the router's logits.
enum class ScoreFunction {
  kSoftmaxBeforeTopk,  // p = softmax(logits over E); top-k of p
  kSoftmaxAfterTopk,   // top-k of the logits; softmax over those K
  kSigmoid,            // s = sigmoid of each logit; top-k of s, whose slots may stand in any order (DeepSeek-V3)
};

// act = c sigmoid(alpha c) (clamp(up, -limit, limit) + up_shift), c = min(gate, limit), element by element: Swish_alpha of the gate times
// the up projection (Shazeer, "GLU Variants Improve Transformer"), silu as it stands here; clamped in
// DeepSeek-V4, clamped and shifted in GPT-OSS.
struct Activation {
  double alpha = 1;
  double limit = std::numeric_limits<double>::infinity();
  double up_shift = 0;

  bool is_silu() const { return alpha == 1 && up_shift == 0 && std::isinf(limit); }
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
  ScoreFunction score_function = ScoreFunction::kSoftmaxBeforeTopk;
  bool renormalise = true;  // divide the K scores by their sum; without effect on a softmax after top-k
  double routed_scale = 1;  // what the scores are multiplied by at last
  Activation activation;
  CheckpointNames names;

  Dim gate_up_rows() const { return 2 * d_ff; }  // G
};

std::string expert_tensor_name(const std::string& pattern, Dim expert);  // replaces {e}

// The tensor that holds a part of all experts, beside such a pattern: "layers.0.mlp.experts.{e}.gate_proj.weight" and "gate_up_proj"
// make "layers.0.mlp.experts.gate_up_proj".
std::string packed_tensor_name(std::string_view per_expert_pattern, std::string_view part);

}  // namespace moecheck::model
