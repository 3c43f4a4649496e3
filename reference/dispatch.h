// Routed rows: one for each (token, slot), grouped by expert.
#pragma once

#include <span>
#include <vector>

#include "reference/matrix.h"

namespace moecheck::reference {

struct RoutedRow {
  Dim token = 0;
  Dim slot = 0;
  Dim expert = 0;
  bool operator==(const RoutedRow&) const = default;
};

// rows_N sorted by (expert, token, slot); the rows of expert e are first_row[e] .. first_row[e + 1] - 1.
struct Dispatch {
  std::vector<RoutedRow> rows_N;
  std::vector<std::size_t> first_row;

  std::span<const RoutedRow> rows_of(Dim expert) const;
};

// T_i = { (t, k) : ids[t][k] == i }, the tokens of expert i: Switch Transformers, section 2.1, without a capacity.
// Requires: 0 <= id < num_experts.
Dispatch dispatch(const IdMatrix& ids_TK, Dim num_experts);

// Row i of the result is the token of rows[i].
template <typename Scalar>
Matrix<Scalar> gather_tokens(const Matrix<Scalar>& x_TD, std::span<const RoutedRow> rows);

// Row i times the score of rows[i].
template <typename Scalar>
Matrix<Scalar> weighted_rows(Matrix<Scalar> values_RD, std::span<const RoutedRow> rows, const Matrix<Scalar>& scores_TK);

}  // namespace moecheck::reference
