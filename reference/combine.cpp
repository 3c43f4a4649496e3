#include "reference/combine.h"

#include <utility>

namespace moecheck::reference {

template <typename Scalar>
Combine<Scalar>::Combine(Matrix<Scalar> scores_TK, Dim d_model)
    : scores_TK_(std::move(scores_TK)), y_TD_(Matrix<Scalar>::Zero(scores_TK_.rows(), d_model)) {}

template <typename Scalar>
void Combine<Scalar>::add(std::span<const RoutedRow> rows, const Matrix<Scalar>& out_RD) {
  MOECHECK_REQUIRE(static_cast<Dim>(rows.size()) == out_RD.rows());
  for (std::size_t i = 0; i < rows.size(); ++i)
    y_TD_.row(rows[i].token) += scores_TK_(rows[i].token, rows[i].slot) * out_RD.row(static_cast<Dim>(i));
}

template class Combine<float>;
template class Combine<double>;

}  // namespace moecheck::reference
