// The backward stages of one rank that need no expert weights, each fed with the rank's own recorded inputs of that stage.
// Formulas: reference/backward.h; here they meet recorded values, and get the magnitudes that bounds need.
#pragma once

#include <optional>

#include "harness/inputs/generator.h"
#include "reference/stages.h"

namespace moecheck::reference {

// dL/dy, generated: the loss is a plain sum over tokens of <y, dL/dy>.
Matrix<double> generated_output_grad(const inputs::Generator& generator, Dim rank);

ExpectedTap expect_grad_y(const Matrix<double>& grad_y_TD);
// d out = w dy, row by row.
std::optional<ExpectedTap> expect_grad_out(const ObservedRank& seen, const Matrix<double>& grad_y_TD);
std::optional<ExpectedTap> expect_grad_gate_up(const ObservedRank& seen);
// dw = <out, dy>, summed over the ranks that share the tokens: each slot's expert may be on another rank, or cut over ranks.
std::optional<ExpectedTap> expect_grad_scores(const ObservedRank& seen, std::span<const ObservedRank> all, const model::Mesh& mesh,
                                              const Matrix<double>& grad_y_TD);
std::optional<ExpectedTap> expect_grad_logits(const ObservedRank& seen, const model::ModelSpec& spec);
// dW_r = dl^T x, summed over data-parallel ranks.
std::optional<ExpectedTap> expect_grad_router(const ObservedRank& seen, std::span<const ObservedRank> all, const model::Problem& problem);

}  // namespace moecheck::reference
