// Joins routed rows by their key (token, slot, expert). Rows are never sorted, zipped or cut to the shorter side: what has no
// partner is reported.
#pragma once

#include <compare>
#include <map>
#include <vector>

#include "harness/base/host_tensor.h"
#include "harness/model/problem.h"

namespace moecheck::check {

struct RowKey {
  model::Dim token = 0;   // global
  model::Dim slot = 0;
  model::Dim expert = 0;  // global
  auto operator<=>(const RowKey&) const = default;
};

// Key of row `row` of dispatch/rows_R3 or combine/rows_N3. Requires: an integer tensor (R, 3).
RowKey row_key(const base::HostTensor& rows_R3, model::Dim row);
// A row that was computed to fill a tile or a fixed count, and belongs to no token.
inline bool is_padding(const RowKey& key) { return key.expert == -1; }

struct RowIndex {
  std::map<RowKey, model::Dim> row_of;     // the first row with a key
  std::vector<RowKey> duplicates;          // each further row with it
  model::Dim num_padding = 0;
};
RowIndex index_rows(const base::HostTensor& rows_R3);

struct RowJoin {
  std::vector<RowKey> missing;     // wanted, not there
  std::vector<RowKey> unexpected;  // there, not wanted
  std::vector<RowKey> duplicates;  // there more than once
};
RowJoin join_rows(const RowIndex& rows, const std::vector<RowKey>& wanted);

}  // namespace moecheck::check
