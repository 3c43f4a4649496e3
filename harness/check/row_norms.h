// The l2 norms of the errors of a tap's rows, each with its own bound.
#pragma once

#include "harness/base/host_tensor.h"
#include "harness/model/dims.h"
#include "harness/trace/expected.h"

namespace moecheck::check {

// Over the rows that are comparable, and in them the elements whose expected value is finite.
struct RowNorms {
  double l2 = 0;              // of all errors, relative to the expected values; absolute if these are all zero
  model::Dim num_over = 0;    // rows whose error is over its bound; NaN is
  model::Dim worst = -1;      // the row with the largest `used`; -1 if no row has a bound
  double error = 0, bound = 0, used = 0;   // of that row
};

// Requires: got has the shape of expected.value, with at least one row.
RowNorms row_norms(const base::HostTensor& got, const trace::WholeTap& expected);

}  // namespace moecheck::check
