#include "reference/bounded_product.h"

#include <algorithm>

namespace moecheck::reference {
namespace {

// Elements of W that are upcast at once: 256 KiB in double, which the second-level cache holds.
constexpr Dim kBlockElements = 32768;

// 0, 1, 2, ...: no gathering needed.
bool is_whole(std::span<const Dim> indices, Dim size) {
  if (static_cast<Dim>(indices.size()) != size) return false;
  for (std::size_t i = 0; i < indices.size(); ++i)
    if (indices[i] != static_cast<Dim>(i)) return false;
  return true;
}

}  // namespace

BoundedMatrix bounded_product(const Matrix<double>& a_MK, const Matrix<float>& w_NK, const Selection& selection) {
  const auto num_rows = static_cast<Dim>(selection.w_rows.size());
  const auto num_columns = static_cast<Dim>(selection.w_columns.size());
  MOECHECK_REQUIRE(a_MK.cols() == num_columns);
  const bool takes_all_columns = is_whole(selection.w_columns, w_NK.cols());
  const Matrix<double> absolute_a_MK = a_MK.cwiseAbs();
  BoundedMatrix result{Matrix<double>(a_MK.rows(), num_rows), Matrix<double>(a_MK.rows(), num_rows)};
  const Dim block = std::clamp<Dim>(kBlockElements / std::max<Dim>(num_columns, 1), 1, std::max<Dim>(num_rows, 1));
  Matrix<double> w_block(block, num_columns);
  for (Dim first = 0; first < num_rows; first += block) {
    const Dim count = std::min(block, num_rows - first);
    for (Dim i = 0; i < count; ++i) {
      const Dim row = selection.w_rows[static_cast<std::size_t>(first + i)];
      if (takes_all_columns) {
        w_block.row(i) = w_NK.row(row).cast<double>();
      } else {
        for (Dim j = 0; j < num_columns; ++j)
          w_block(i, j) = static_cast<double>(w_NK(row, selection.w_columns[static_cast<std::size_t>(j)]));
      }
    }
    auto used = w_block.topRows(count);
    result.value.middleCols(first, count).noalias() = a_MK * used.transpose();
    used = used.cwiseAbs();
    result.magnitude.middleCols(first, count).noalias() = absolute_a_MK * used.transpose();
  }
  return result;
}

}  // namespace moecheck::reference
