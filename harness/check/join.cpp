#include "harness/check/join.h"

#include <algorithm>
#include <set>

namespace moecheck::check {

RowKey row_key(const base::HostTensor& rows_R3, model::Dim row) {
  return {rows_R3.int_at(3 * row), rows_R3.int_at(3 * row + 1), rows_R3.int_at(3 * row + 2)};
}

RowIndex index_rows(const base::HostTensor& rows_R3) {
  RowIndex index;
  for (model::Dim row = 0; row < rows_R3.dim(0); ++row) {
    const RowKey key = row_key(rows_R3, row);
    if (is_padding(key)) {
      ++index.num_padding;
    } else if (!index.row_of.emplace(key, row).second) {
      index.duplicates.push_back(key);
    }
  }
  return index;
}

RowJoin join_rows(const RowIndex& rows, const std::vector<RowKey>& wanted) {
  RowJoin join;
  join.duplicates = rows.duplicates;
  const std::set<RowKey> wanted_keys(wanted.begin(), wanted.end());
  for (const RowKey& key : wanted_keys)
    if (!rows.row_of.contains(key)) join.missing.push_back(key);
  for (const auto& [key, row] : rows.row_of)
    if (!wanted_keys.contains(key)) join.unexpected.push_back(key);
  return join;
}

}  // namespace moecheck::check
