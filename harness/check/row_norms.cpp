#include "harness/check/row_norms.h"

#include <cmath>

#include "harness/tolerance/bounds.h"

namespace moecheck::check {
namespace {

struct Squares {
  double error = 0, size = 0;
};

Squares squares_of(const base::HostTensor& got, const base::HostTensor& want, model::Dim row) {
  const model::Dim columns = got.numel() / got.dim(0);
  Squares squares;
  for (model::Dim i = row * columns; i < (row + 1) * columns; ++i) {
    const double value = want.at(i);
    if (!std::isfinite(value)) continue;
    squares.error += (got.at(i) - value) * (got.at(i) - value);
    squares.size += value * value;
  }
  return squares;
}

// NaN is worse than every number.
bool is_worse(double used, const RowNorms& than) {
  if (than.worst < 0) return true;
  return std::isnan(used) ? !std::isnan(than.used) : used > than.used;
}

}  // namespace

RowNorms row_norms(const base::HostTensor& got, const trace::WholeTap& expected) {
  RowNorms norms;
  Squares all;
  for (model::Dim row = 0; row < got.dim(0); ++row) {
    const auto at = static_cast<std::size_t>(row);
    if (expected.is_comparable[at] == 0) continue;
    const Squares squares = squares_of(got, expected.value, row);
    all.error += squares.error;
    all.size += squares.size;
    if (expected.row_bound.empty()) continue;
    const double error = std::sqrt(squares.error), bound = expected.row_bound[at];
    const double used = tolerance::used(error, bound);
    norms.num_over += tolerance::within(error, bound) ? 0 : 1;
    if (!is_worse(used, norms)) continue;
    norms.worst = row;
    norms.error = error;
    norms.bound = bound;
    norms.used = used;
  }
  norms.l2 = std::sqrt(all.size > 0 ? all.error / all.size : all.error);
  return norms;
}

}  // namespace moecheck::check
