// Products in double that carry the sum of the magnitudes of their summands, which bounds are made of.
#pragma once

#include <span>

#include "reference/matrix.h"

namespace moecheck::reference {

struct BoundedMatrix {
  Matrix<double> value;      // sum_k a_ik b_jk
  Matrix<double> magnitude;  // sum_k |a_ik| |b_jk|: Higham, "Accuracy and Stability of Numerical Algorithms", section 3.5
};

// Rows `w_rows` and columns `w_columns` of a weight.
struct Selection {
  std::span<const Dim> w_rows;
  std::span<const Dim> w_columns;
};

// A times the transpose of the selected part of W, in blocks of rows of W, so that no second copy of a large weight is made.
// Requires: a_MK.cols() == selection.w_columns.size(); indices within W.
BoundedMatrix bounded_product(const Matrix<double>& a_MK, const Matrix<float>& w_NK, const Selection& selection);

}  // namespace moecheck::reference
