// What a reader of scenarios, suites and families expects of a YAML node; every refusal says what it found instead.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "harness/base/result.h"
#include "harness/cases/fields.h"
#include "harness/scenario/yaml_reader.h"

namespace moecheck::scenario {

const YamlNode* find_value(const YamlNode& map, std::string_view key);

// Errors: kUsage at the node, "expected a map of ..., found the number 7".
base::Status expect_map(const Source& source, const YamlNode& node, std::string_view of_what);
base::Status expect_list(const Source& source, const YamlNode& node, std::string_view of_what);

// Requires: `map` is a map. Errors: kUsage at the first key that is not known, with did-you-mean.
base::Status check_keys(const Source& source, const YamlNode& map, const std::vector<std::string>& known);

// Requires: `root` is a map. Errors: kUsage unless `version` is there and is 1.
base::Status check_version(const Source& source, const YamlNode& root);

// Text that is not empty; a plain number or boolean is refused ("quote it").
base::Result<std::string> text_of(const Source& source, const YamlNode& node, std::string_view what);
// A plain decimal number, without sign, leading zeros, base or separators.
base::Result<std::int64_t> count_of(const Source& source, const YamlNode& node, std::string_view what);

// A finite number above 0, with or without a fraction.
base::Result<double> positive_of(const Source& source, const YamlNode& node, std::string_view what);

// The canonical text of a knob's value: a list of a list knob is joined by commas; see cases::canonical_text.
// Errors: kUsage at the value, or at the item of a list.
base::Result<std::string> knob_text(const Source& source, const cases::Field& field, const YamlNode& node);

}  // namespace moecheck::scenario
