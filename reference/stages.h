// The stages of one rank that need no expert weights. Each is a function of the rank's own recorded inputs of that stage;
// nothing if they are missing.
#pragma once

#include <optional>
#include <span>

#include "harness/trace/expected.h"
#include "reference/observed_rank.h"

namespace moecheck::reference {

using ExpectedTap = trace::ExpectedTap;

// A tap of `rows` x `columns` zeros, every row comparable.
ExpectedTap make_tap(Dim rows, Dim columns, Dim terms);
Eigen::Map<Matrix<double>> view_of(base::HostTensor& tensor);

ExpectedTap expect_x(const Matrix<float>& generated_TD);
std::optional<ExpectedTap> expect_logits(const ObservedRank& seen, const Matrix<float>& w_router_ED);
std::optional<ExpectedTap> expect_scores(const ObservedRank& seen, const model::ModelSpec& spec);
std::optional<ExpectedTap> expect_act(const ObservedRank& seen);
std::optional<ExpectedTap> expect_partial(const ObservedRank& seen, const model::ModelSpec& spec);

// The sum over the ranks that share the tokens, unless this one computed every routed row in full.
std::optional<ExpectedTap> expect_y(const ObservedRank& seen, std::span<const ObservedRank> all, const model::Problem& problem);

}  // namespace moecheck::reference
