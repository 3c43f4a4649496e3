// What `moecheck diff` prints.
//
// JSON: {"schema": 1, "a": path, "b": path, "is_equal": bool,
//        "summary": {"tensors", "compared", "elements", "missing", "extra", "shape", "dtype", "values", "explained"},
//        "experts": [{"group", "parts": [name], "is_permutation", "text", "unmatched_b": [expert], "lost_a": [expert],
//                     "moves": [{"a", "b", "count", "is_copy", "is_exact"}]}],
//        "tensors": [{"name", "kind": missing|extra|shape|dtype|values, "is_explained", "a": {"dtype", "shape"} or null, "b": the same,
//                     and where both have one shape "elements", "different", "first_different", "max_abs", "relative_l2",
//                     "max_ulp" (null unless both are floats of one dtype)}]}
// missing: in A only; extra: in B only; explained: by experts that moved. NaN and the infinities are strings.
#pragma once

#include <string>

#include "harness/base/json.h"
#include "harness/checkpoint/diff.h"

namespace moecheck::cli {

struct DiffPaths {
  std::string a;
  std::string b;
};

base::Json diff_json(const checkpoint::Diff& diff, const DiffPaths& paths);

// Moved experts, then a table of what they do not explain, then one line as summary. Experts of one part that miss or differ
// alike share a row.
std::string diff_text(const checkpoint::Diff& diff);

}  // namespace moecheck::cli
