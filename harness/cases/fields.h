// THE table of knobs. Parser, expander, case ids, --set, the JSON Schema and the docs are made from it.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "harness/base/result.h"
#include "harness/cases/case.h"

namespace moecheck::cases {

enum class FieldType { kName, kChoice, kInt, kReal, kBool, kIntList, kNameList, kMesh, kLayoutList };

struct Field {
  std::string_view name;
  std::string_view yaml_place;     // "" top level, "override", "tokens", "train", "checkpoint"
  std::string_view yaml_key;       // key at that place
  FieldType type;
  std::string_view default_text;   // empty: the family's value (override), or required
  std::vector<std::string_view> choices;
  std::int64_t min;                // of numbers; a real number has the same limits
  std::int64_t max;
  bool always_in_id;
  std::string_view doc;
  std::string (*get)(const Case&);
  base::Status (*set)(Case&, std::string_view text);
};

std::span<const Field> fields();
const Field* find_field(std::string_view name);
std::vector<std::string> field_names();

// What stands between the values of a list: a comma, or a slash where the values have commas of their own.
char separator_of(FieldType type);
bool is_list(FieldType type);

// Checks `text` against type, choices and range and returns its canonical form ("4", "true", "7,5").
// Errors: kUsage: what was expected, what was found.
base::Result<std::string> canonical_text(const Field& field, std::string_view text);

}  // namespace moecheck::cases
