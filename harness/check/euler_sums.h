// The inner products of an expert's weights with their gradients, by the subject's own numbers, each with what it may be off by.
#pragma once

#include <vector>

#include "harness/check/registry.h"

namespace moecheck::check {

// A sum of products.
struct InnerProduct {
  double value = 0;
  double bound = 0;       // sum of |first factor| * bound of the second
  double magnitude = 0;   // sum of |summands|
  Dim terms = 0;

  void add(double a, double b, double bound_of_b);
  // With the rounding of the sum itself, which is taken in double.
  double total_bound() const;
};

struct EulerSums {
  Dim rank = -1;         // lowest that holds a part of the expert
  Dim rows = 0;          // on all ranks
  InnerProduct down;     // <W_down, dW_down>
  InnerProduct up;       // <W_up, dW_up>
  InnerProduct score;    // sum of s ds over the expert's rows
  // What the stages between two of these round.
  double down_to_score = 0;   // out and its gradient
  double down_to_up = 0;      // gate_up, act and their gradients
};

// By expert. Bounds are NaN where the reference cannot say.
// Requires: every rank shows, as declared, param/experts, grad/experts and the rows of experts/ and grad/ with their keys;
//           router/ids_TK, router/scores_TK and grad/scores_TK if has_scores.
std::vector<EulerSums> euler_sums(const CheckInput& input, bool has_scores);

}  // namespace moecheck::check
