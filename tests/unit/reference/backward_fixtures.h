// A backward pass with everything in memory, and a naive second formulation of it with derived bounds.
#pragma once

#include <map>
#include <string>

#include "reference/backward.h"
#include "tests/unit/reference/layer_fixtures.h"

namespace moecheck::reference {

template <typename Scalar>
struct BackwardCase {
  model::ModelSpec spec;
  StoredWeights<Scalar> weights;
  Matrix<Scalar> x_TD;
  IdMatrix ids_TK;
  Matrix<Scalar> d_y_TD;
  model::ScorePosition position = model::ScorePosition::kAfterExperts;
};

// The layer's own routing, and small integers for d_y, so that float and double get the same numbers.
template <typename Scalar>
BackwardCase<Scalar> backward_case(const model::Problem& problem);
// Small enough to perturb each element: 5 experts, top 2, D = 7, F = 4, 6 tokens.
model::Problem tiny_problem(const RouterVariant& variant);

// Every gradient by name: x, router, scores, logits, gate_up/<expert>, down/<expert>.
template <typename Scalar>
using NamedMatrices = std::map<std::string, Matrix<Scalar>>;
std::string expert_name(const std::string& weight, Dim expert);

template <typename Scalar>
NamedMatrices<Scalar> gradients_of(BackwardCase<Scalar>& one);

// How far an implementation with unit roundoff u may be from `value`, element by element.
struct BoundedGradient {
  Matrix<double> value;
  Matrix<double> bound;
};

struct NaiveBackward {
  std::map<std::string, BoundedGradient> gradients;
  double loss = 0;  // <y, d_y>
  double loss_bound = 0;
};

// Direct sums over token, slot and element in double, with the Jacobian of the scores written out; shares no code with the
// reference.
NaiveBackward naive_backward(const BackwardCase<double>& one, double unit_roundoff);

// Largest |a - value| / (factor * bound); NaN and a nonzero difference with a zero bound give infinity.
template <typename Scalar>
double used_bound(const Matrix<Scalar>& a, const BoundedGradient& b, double factor);

}  // namespace moecheck::reference
