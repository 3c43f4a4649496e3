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
    TapPoint{"router/ids_TK", "T K", TapKind::kTokens, "forward", "global ids of the chosen experts", ElementKind::kInteger},
    TapPoint{"dispatch/tokens_S", "S", TapKind::kTokens, "forward",
             "global indices of the tokens that the rank dispatches; only where they are not its own: gathered from others", ElementKind::kInteger},
    TapPoint{"dispatch/scores_TK", "S K", TapKind::kTokens, "forward", "scores that the local experts are given; not there with all-to-all"},
    TapPoint{"dispatch/ids_TK", "S K", TapKind::kTokens, "forward",
             "ids that the local experts are given: local id, or e (the sentinel) for an expert that lives elsewhere; not there with all-to-all",
             ElementKind::kInteger},
    TapPoint{"dispatch/counts_e", "e", TapKind::kCounts, "forward", "rows of each local expert", ElementKind::kInteger},
    TapPoint{"dispatch/rows_R3", "R 3", TapKind::kRows, "forward", "global token, slot and global expert of each computed row; expert -1 for padding",
             ElementKind::kInteger},
    TapPoint{"experts/in_RD", "R D", TapKind::kRows, "forward", "rows that the experts are given; weighted already with apply_scores=before_experts"},
    TapPoint{"experts/gate_up_RG", "R G", TapKind::kRows, "forward", "x times gate_up, before the activation"},
    TapPoint{"experts/act_RF", "R F", TapKind::kRows, "forward", "silu(gate) * up"},
    TapPoint{"experts/out_RD", "R D", TapKind::kRows, "forward", "act times down, before weighting"},
    TapPoint{"combine/rows_N3", "N 3", TapKind::kCounts, "forward",
             "global token, slot and global expert of each row that came back to this rank and is summed here; only with all-to-all",
             ElementKind::kInteger},
    TapPoint{"combine/partial_TD", "S D", TapKind::kTokens, "forward", "weighted sum of the experts' rows, before the reduction"},
    TapPoint{"output/y_TD", "T D", TapKind::kTokens, "forward", "output of the layer"},
    TapPoint{"grad/y_TD", "T D", TapKind::kTokens, "backward", "gradient that the loss gives to the output"},
    TapPoint{"grad/out_RD", "R D", TapKind::kRows, "backward", "gradient of experts/out_RD"},
    TapPoint{"grad/act_RF", "R F", TapKind::kRows, "backward", "gradient of experts/act_RF"},
    TapPoint{"grad/gate_up_RG", "R G", TapKind::kRows, "backward", "gradient of experts/gate_up_RG"},
    TapPoint{"grad/in_RD", "R D", TapKind::kRows, "backward", "gradient of experts/in_RD"},
    TapPoint{"grad/experts/down_EDF", "E D F", TapKind::kParam, "backward", "gradient of the down weights, after all reductions"},
    TapPoint{"grad/experts/gate_up_EGD", "E G D", TapKind::kParam, "backward", "gradient of the gate and up weights, after all reductions"},
    TapPoint{"grad/scores_TK", "T K", TapKind::kTokens, "backward", "gradient of the routing weights, after the sum over the group"},
    TapPoint{"grad/logits_TE", "T E", TapKind::kTokens, "backward", "gradient of the router logits"},
    TapPoint{"grad/router/w_ED", "E D", TapKind::kParam, "backward", "gradient of the router weight, after all reductions"},
    TapPoint{"grad/x_TD", "T D", TapKind::kTokens, "backward", "gradient of the tokens, after all reductions"},
    TapPoint{"optim/grad/router/w_ED", "E D", TapKind::kParam, "step", "sum of the microbatches' gradients, before clipping", ElementKind::kFp32},
    TapPoint{"optim/grad/experts/gate_up_EGD", "E G D", TapKind::kParam, "step", "likewise", ElementKind::kFp32},
    TapPoint{"optim/grad/experts/down_EDF", "E D F", TapKind::kParam, "step", "likewise", ElementKind::kFp32},
    TapPoint{"optim/norm_1", "1", TapKind::kCounts, "step", "global norm of these gradients, over all parameters and ranks", ElementKind::kFp32},
    TapPoint{"optim/clip_1", "1", TapKind::kCounts, "step", "factor that the gradients are multiplied with", ElementKind::kFp32},
    TapPoint{"optim/steps_3", "3", TapKind::kCounts, "step", "steps taken by router, gate_up and down; adamw only", ElementKind::kInteger},
    TapPoint{"optim/m/router/w_ED", "E D", TapKind::kParam, "step", "first moment (adamw) or momentum buffer (sgd), after the step", ElementKind::kFp32},
    TapPoint{"optim/m/experts/gate_up_EGD", "E G D", TapKind::kParam, "step", "likewise", ElementKind::kFp32},
    TapPoint{"optim/m/experts/down_EDF", "E D F", TapKind::kParam, "step", "likewise", ElementKind::kFp32},
    TapPoint{"optim/v/router/w_ED", "E D", TapKind::kParam, "step", "second moment, after the step; adamw only", ElementKind::kFp32},
    TapPoint{"optim/v/experts/gate_up_EGD", "E G D", TapKind::kParam, "step", "likewise", ElementKind::kFp32},
    TapPoint{"optim/v/experts/down_EDF", "E D F", TapKind::kParam, "step", "likewise", ElementKind::kFp32},
    TapPoint{"optim/master/router/w_ED", "E D", TapKind::kParam, "step", "fp32 master weights, after the step", ElementKind::kFp32},
    TapPoint{"optim/master/experts/gate_up_EGD", "E G D", TapKind::kParam, "step", "likewise", ElementKind::kFp32},
    TapPoint{"optim/master/experts/down_EDF", "E D F", TapKind::kParam, "step", "likewise", ElementKind::kFp32},
    TapPoint{"optim/param/router/w_ED", "E D", TapKind::kParam, "step", "the weights that the next forward uses"},
    TapPoint{"optim/param/experts/gate_up_EGD", "E G D", TapKind::kParam, "step", "likewise"},
    TapPoint{"optim/param/experts/down_EDF", "E D F", TapKind::kParam, "step", "likewise"},
    TapPoint{"state/batches_1", "1", TapKind::kCounts, "step", "batches taken so far: where the data goes on", ElementKind::kInteger},
    TapPoint{"state/lr_1", "1", TapKind::kCounts, "step", "learning rate of the next step", ElementKind::kFp64},
    TapPoint{"state/tokens_E", "E", TapKind::kCounts, "step", "routed rows of each expert so far, over all ranks and batches", ElementKind::kInteger},
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
