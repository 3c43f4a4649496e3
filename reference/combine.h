// The weighted sum of the experts' outputs.
#pragma once

#include "reference/dispatch.h"

namespace moecheck::reference {

// y_t = sum over the chosen experts i of p_i(x_t) E_i(x_t): Switch Transformers, equation 2. The sum is taken expert by
// expert, since experts are streamed.
template <typename Scalar>
class Combine {
 public:
  Combine(Matrix<Scalar> scores_TK, Dim d_model);

  // Adds the rows of one expert; out_RD.row(i) belongs to rows[i].
  void add(std::span<const RoutedRow> rows, const Matrix<Scalar>& out_RD);

  const Matrix<Scalar>& y_TD() const { return y_TD_; }

 private:
  Matrix<Scalar> scores_TK_;
  Matrix<Scalar> y_TD_;
};

}  // namespace moecheck::reference
