// The stages of one rank that need no expert weights. Each is a function of the recorded inputs of that stage, the rank's own
// wherever it has them; nothing if they are missing.
#pragma once

#include <optional>

#include "harness/trace/expected.h"
#include "reference/observed_layer.h"

namespace moecheck::reference {

using ExpectedTap = trace::ExpectedTap;

// A tap of `rows` x `columns` zeros, every row comparable.
ExpectedTap make_tap(Dim rows, Dim columns, Dim terms);
// Nothing for a tap whose stage had rows, and no inputs for any of them.
std::optional<ExpectedTap> if_any_input(ExpectedTap tap, const std::vector<std::uint8_t>& is_routed);
Eigen::Map<Matrix<double>> view_of(base::HostTensor& tensor);

ExpectedTap expect_x(const Matrix<float>& generated_TD);
std::optional<ExpectedTap> expect_logits(const ObservedRank& seen, const Matrix<float>& w_router_ED);
std::optional<ExpectedTap> expect_scores(const ObservedRank& seen, const model::ModelSpec& spec);
// The token, bit for bit (terms 0), or times its score where that goes before the experts (terms 1).
std::optional<ExpectedTap> expect_in(const ObservedLayer& layer, const ObservedRank& seen);
std::optional<ExpectedTap> expect_act(const ObservedRank& seen, const model::Activation& activation);
// The weighted sum of what came back to the rank, or of its own rows: a row for each token that its combine is about.
std::optional<ExpectedTap> expect_partial(const ObservedLayer& layer, const ObservedRank& seen);
// The sum over the ranks of the layer group whose combine has the token, unless this one combined every slot of its tokens in full.
std::optional<ExpectedTap> expect_y(const ObservedLayer& layer, const ObservedRank& seen);

}  // namespace moecheck::reference
