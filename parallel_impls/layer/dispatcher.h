// Token dispatchers: how tokens reach the ranks that hold their experts, and how the results come back.
#pragma once

#include "parallel_impls/layer/layer.h"

namespace moecheck::parallel_impls {

// What the local experts are given; ids are local.
struct DispatchedTokens {
  at::Tensor x_TD;
  RoutedSlots slots;
  ScoreRule scores;
};

class TokenDispatcher {
 public:
  virtual ~TokenDispatcher() = default;
  // Global ids in `routed`. Taps dispatch/*. Ranks: all that share tokens or experts, also with T == 0.
  virtual DispatchedTokens dispatch(const at::Tensor& x_TD, const RoutedSlots& routed, const LocalExperts& local, Tapper& tapper) = 0;
  // (row of x_TD, slot, local expert) -> (global token, slot, global expert); expert -1 stays.
  virtual at::Tensor global_keys(const at::Tensor& rows_R3, const LocalExperts& local) const = 0;
  // partial_TD: what the experts backend summed. Taps combine/*. Returns the output of the rank's own tokens.
  virtual at::Tensor combine(const at::Tensor& partial_TD, Tapper& tapper) = 0;
  // In a forward or backward.
  virtual std::vector<trace::DeclaredCollective> declared(std::string_view phase) const = 0;
};

// Every rank of the group in `dim` sees all tokens of the group, computes what its weights allow, and the partial sums are
// reduced. Tokens are replicated over the group (all-reduce), or sharded and gathered (all-gather, reduce-scatter).
// dim: "ep" or "tp", or "" without parallelism.
std::unique_ptr<TokenDispatcher> make_gathering_dispatcher(LayerContext context, std::string dim);

// Tokens travel to the ranks of their experts and back, with uneven splits. Over expert dimensions in which tokens are replicated
// each rank sends its slice of them. Where tp cuts the experts, tokens are replicated over tp and partial sums reduced.
std::unique_ptr<TokenDispatcher> make_all_to_all_dispatcher(LayerContext context);

}  // namespace moecheck::parallel_impls
