// What the reference says that a subject should have shown, stage by stage, each stage fed with the subject's own recorded
// inputs and routing of that stage (so errors do not compound and the first wrong stage is the culprit).
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "harness/base/host_tensor.h"

namespace moecheck::trace {

struct ExpectedTap {
  base::HostTensor value;      // fp64, the shape of the observed local tensor
  base::HostTensor magnitude;  // fp64, same shape: sum of |summands| that went into the element (|value| for element-wise stages)
  std::int64_t terms = 1;      // number of summands: D for logits and gate_up, F_local for out, K for combine, ranks for output
  // Per row (dim 0): 0 where the stage's own inputs were missing or not usable (a row key out of range, say).
  std::vector<std::uint8_t> is_comparable = {};
  // Backward stages: sum of |partial results that were rounded to the store dtype on the way|, and how many such roundings one
  // of them went through. Empty and 0 elsewhere.
  base::HostTensor stored = {};
  std::int64_t roundings = 0;
};

// What a tap has to be given only what goes into the layer, for one whose stage's own inputs are not shown.
struct WholeTap {
  base::HostTensor value;   // fp64, the shape of the observed local tensor
  base::HostTensor bound;   // fp64, same shape: composed over all stages before (harness/tolerance/composed.h)
  // Per row: of the l2 norm of its error, often far below that of its elements' bounds. Empty: nothing beyond these is known.
  std::vector<double> row_bound = {};
  std::vector<std::uint8_t> is_comparable = {};   // per row, as in ExpectedTap
};

struct ExpectedRank {
  std::map<std::string, ExpectedTap, std::less<>> taps;
  // Only of taps that are shown and not in `taps`: nothing is judged twice.
  std::map<std::string, WholeTap, std::less<>> whole;
  // The same taps of a step, had the parameters been stepped in the case's dtype, with no fp32 masters behind them, where no rank
  // shows whether there are any: a parameter's taps are right if they are within the bounds of all of one or all of the other.
  std::map<std::string, WholeTap, std::less<>> in_dtype;
  // fp32 end-to-end layer output from generated inputs with the subject's routing (T, D); empty if the routing is unusable.
  base::HostTensor end_to_end_TD;
};

struct Expected {
  std::vector<ExpectedRank> ranks;
};

}  // namespace moecheck::trace
