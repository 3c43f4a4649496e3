// The backward stages of one rank that need no expert weights, each fed with the recorded inputs of that stage.
// Formulas: reference/backward.h; here they meet recorded values, and get the magnitudes that bounds need.
#pragma once

#include <optional>

#include "harness/inputs/generator.h"
#include "reference/stages.h"

namespace moecheck::reference {

// Roundings of an element: exp, sum, division, products of swish' in fp32.
constexpr Dim kSwishTerms = 12;
// Likewise exp, shift, division and the two products of the softmax's backward, beside its sum over E.
constexpr Dim kSoftmaxTerms = 32;

// dL/dy of all tokens of a batch (their global indices are the rows), generated: the loss is a plain sum over tokens of <y, dL/dy>.
Matrix<double> generated_output_grad(const inputs::Generator& generator, Dim batch);

ExpectedTap expect_grad_y(const ObservedRank& seen, const Matrix<double>& grad_y_SD);
// d out = w dy, row by row; dy itself where the weight goes before the experts.
std::optional<ExpectedTap> expect_grad_out(const ObservedLayer& layer, const ObservedRank& seen, const Matrix<double>& grad_y_SD);
std::optional<ExpectedTap> expect_grad_gate_up(const ObservedRank& seen, const model::Activation& activation);
// dw = <out, dy>, or <x, d in> where the weight goes before the experts; summed over the layer group: each slot's expert may be on
// another rank, or cut over ranks.
std::optional<ExpectedTap> expect_grad_scores(const ObservedLayer& layer, const ObservedRank& seen, const Matrix<double>& grad_y_SD);
std::optional<ExpectedTap> expect_grad_logits(const ObservedRank& seen, const model::ModelSpec& spec);
// dW_r = dl^T x, summed over the token shards; the rows that the layout gives the rank.
std::optional<ExpectedTap> expect_grad_router(const ObservedLayer& layer, const ObservedRank& seen);

}  // namespace moecheck::reference
