// The shape legend. Every tensor carries its dims in its name: x_TD, logits_TE, w_gate_up_EGD.
//
//   T  tokens of one rank                   D  model dim             F  expert hidden dim
//   G  2F, packed gate rows, then up rows   E  experts               e  experts of one rank
//   K  top-k                                N  T*K routed rows       R  rows that a rank really computes
//   S  tokens that a rank dispatches        P  ranks
//
// A *slot* is the position 0..K-1 of an expert in a token's top-k; (token, slot) names a routed row.
#pragma once

#include <cstdint>

namespace moecheck::model {

using Dim = std::int64_t;

}  // namespace moecheck::model
