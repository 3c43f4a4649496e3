#include "harness/trace/tap_points.h"

#include <algorithm>
#include <array>

namespace moecheck::trace {
namespace {

constexpr std::array kTaps = {
    TapPoint{"param/attention/w_DD", "D D", TapKind::kParam, "load", "attention weight that travels with the layer"},
    TapPoint{"param/router/w_ED", "E D", TapKind::kParam, "load", "router weight"},
    TapPoint{"param/experts/gate_up_EGD", "E G D", TapKind::kParam, "load", "packed gate and up weights of the experts"},
    TapPoint{"param/experts/down_EDF", "E D F", TapKind::kParam, "load", "down weights of the experts"},
    TapPoint{"input/x_TD", "T D", TapKind::kTokens, "forward", "tokens of the data-parallel rank"},
    TapPoint{"router/logits_TE", "T E", TapKind::kTokens, "forward", "router logits over all experts"},
    TapPoint{"router/scores_TK", "T K", TapKind::kTokens, "forward", "scores of the chosen experts"},
    TapPoint{"router/ids_TK", "T K", TapKind::kTokens, "forward", "global ids of the chosen experts"},
    TapPoint{"dispatch/scores_TK", "T K", TapKind::kTokens, "forward", "scores that the local experts are given"},
    TapPoint{"dispatch/ids_TK", "T K", TapKind::kTokens, "forward",
             "ids that the local experts are given: local id, or e (the sentinel) for an expert that lives elsewhere"},
    TapPoint{"dispatch/counts_e", "e", TapKind::kCounts, "forward", "rows of each local expert"},
    TapPoint{"dispatch/rows_R3", "R 3", TapKind::kRows, "forward", "token, slot and global expert of each computed row"},
    TapPoint{"experts/gate_up_RG", "R G", TapKind::kRows, "forward", "x times gate_up, before the activation"},
    TapPoint{"experts/act_RF", "R F", TapKind::kRows, "forward", "silu(gate) * up"},
    TapPoint{"experts/out_RD", "R D", TapKind::kRows, "forward", "act times down, before weighting"},
    TapPoint{"combine/partial_TD", "T D", TapKind::kTokens, "forward", "weighted sum of the local experts, before the reduction"},
    TapPoint{"output/y_TD", "T D", TapKind::kTokens, "forward", "output of the layer"},
    TapPoint{"grad/y_TD", "T D", TapKind::kTokens, "backward", "gradient that the loss gives to the output"},
    TapPoint{"grad/out_RD", "R D", TapKind::kRows, "backward", "gradient of experts/out_RD"},
    TapPoint{"grad/act_RF", "R F", TapKind::kRows, "backward", "gradient of experts/act_RF"},
    TapPoint{"grad/gate_up_RG", "R G", TapKind::kRows, "backward", "gradient of experts/gate_up_RG"},
    TapPoint{"grad/experts/down_EDF", "E D F", TapKind::kParam, "backward", "gradient of the down weights, after all reductions"},
    TapPoint{"grad/experts/gate_up_EGD", "E G D", TapKind::kParam, "backward", "gradient of the gate and up weights, after all reductions"},
    TapPoint{"grad/scores_TK", "T K", TapKind::kTokens, "backward", "gradient of the routing weights, after the sum over the group"},
    TapPoint{"grad/logits_TE", "T E", TapKind::kTokens, "backward", "gradient of the router logits"},
    TapPoint{"grad/router/w_ED", "E D", TapKind::kParam, "backward", "gradient of the router weight, after all reductions"},
    TapPoint{"grad/x_TD", "T D", TapKind::kTokens, "backward", "gradient of the tokens, after all reductions"},
};

}  // namespace

std::span<const TapPoint> tap_points() { return kTaps; }

std::size_t stage_index(std::string_view name) {
  const auto found = std::ranges::find(kTaps, name, &TapPoint::name);
  return static_cast<std::size_t>(found - kTaps.begin());
}

const TapPoint* find_tap(std::string_view name) {
  const std::size_t index = stage_index(name);
  return index < kTaps.size() ? &kTaps[index] : nullptr;
}

}  // namespace moecheck::trace
