// How the knob table reads and writes values as text.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "harness/base/require.h"
#include "harness/base/result.h"

namespace moecheck::cases {

base::Error usage(std::string message);

std::vector<std::string> split(std::string_view text, char separator);
// Errors: kUsage with what was found.
base::Result<std::int64_t> parse_int(std::string_view text);

// The values of an enum by their names in scenarios.
template <typename Enum>
struct Named {
  Enum value;
  std::string_view name;
};

template <typename Table, typename Enum>
std::string name_of(const Table& table, Enum value) {
  for (const auto& row : table)
    if (row.value == value) return std::string(row.name);
  MOECHECK_REQUIRE(false, "enumerator without a name");
  return "";
}

template <typename Table>
auto value_of(const Table& table, std::string_view name) {
  for (const auto& row : table)
    if (row.name == name) return row.value;
  MOECHECK_REQUIRE(false, std::string(name));
  return table[0].value;
}

template <typename Table>
std::vector<std::string_view> names_of(const Table& table) {
  std::vector<std::string_view> names;
  for (const auto& row : table) names.push_back(row.name);
  return names;
}

}  // namespace moecheck::cases
