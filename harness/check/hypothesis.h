// The nearest known cause of a deviation: a small dictionary, tried on the row of the worst element.
#pragma once

#include <string>
#include <vector>

#include "harness/check/readable.h"
#include "harness/trace/expected.h"

namespace moecheck::check {

struct Deviation {
  std::string_view tap;
  Dim rank = 0;
  Dim row = 0;                       // of the worst element
  const base::HostTensor& got;
  const trace::ExpectedTap& expected;
};

// One clause without a full stop; empty if nothing in the dictionary fits.
std::string hypothesis_for(const CheckInput& input, const Deviation& deviation);

// Names got = c * want for c in {0, -1, 2, 1/2, k, 1/k} or n, 1/n of a mesh dimension, if one c fits the whole row.
std::string ratio_clause(const std::vector<double>& want, const std::vector<double>& got, const model::Problem& problem);

}  // namespace moecheck::check
