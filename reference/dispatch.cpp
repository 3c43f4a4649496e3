#include "reference/dispatch.h"

namespace moecheck::reference {

std::span<const RoutedRow> Dispatch::rows_of(Dim expert) const {
  const auto e = static_cast<std::size_t>(expert);
  return std::span(rows_N).subspan(first_row[e], first_row[e + 1] - first_row[e]);
}

Dispatch dispatch(const IdMatrix& ids_TK, Dim num_experts) {
  Dispatch result;
  result.first_row.assign(static_cast<std::size_t>(num_experts) + 1, 0);
  for (const Dim id : ids_TK.reshaped()) {
    MOECHECK_REQUIRE(id >= 0 && id < num_experts);
    ++result.first_row[static_cast<std::size_t>(id) + 1];
  }
  for (std::size_t e = 1; e < result.first_row.size(); ++e) result.first_row[e] += result.first_row[e - 1];
  result.rows_N.resize(static_cast<std::size_t>(ids_TK.size()));
  std::vector<std::size_t> next(result.first_row.begin(), result.first_row.end() - 1);
  for (Dim t = 0; t < ids_TK.rows(); ++t)
    for (Dim k = 0; k < ids_TK.cols(); ++k) {
      const Dim e = ids_TK(t, k);
      result.rows_N[next[static_cast<std::size_t>(e)]++] = {t, k, e};
    }
  return result;
}

template <typename Scalar>
Matrix<Scalar> gather_tokens(const Matrix<Scalar>& x_TD, std::span<const RoutedRow> rows) {
  Matrix<Scalar> x_RD(static_cast<Dim>(rows.size()), x_TD.cols());
  for (std::size_t i = 0; i < rows.size(); ++i) x_RD.row(static_cast<Dim>(i)) = x_TD.row(rows[i].token);
  return x_RD;
}

template <typename Scalar>
Matrix<Scalar> weighted_rows(Matrix<Scalar> values_RD, std::span<const RoutedRow> rows, const Matrix<Scalar>& scores_TK) {
  MOECHECK_REQUIRE(static_cast<Dim>(rows.size()) == values_RD.rows());
  for (std::size_t i = 0; i < rows.size(); ++i) values_RD.row(static_cast<Dim>(i)) *= scores_TK(rows[i].token, rows[i].slot);
  return values_RD;
}

template Matrix<float> weighted_rows(Matrix<float>, std::span<const RoutedRow>, const Matrix<float>&);
template Matrix<double> weighted_rows(Matrix<double>, std::span<const RoutedRow>, const Matrix<double>&);
template Matrix<float> gather_tokens(const Matrix<float>&, std::span<const RoutedRow>);
template Matrix<double> gather_tokens(const Matrix<double>&, std::span<const RoutedRow>);

}  // namespace moecheck::reference
