// Reads maps of knobs out of a scenario or a suite.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "harness/base/result.h"
#include "harness/scenario/scenario.h"
#include "harness/scenario/yaml_reader.h"

namespace moecheck::scenario {

// Places below which a scenario groups knobs ("override", "tokens"), from the knob table.
std::vector<std::string> knob_places();

// Keys that the knob table offers at `place` ("" is the top level).
std::vector<std::string> keys_at(std::string_view place);

// The knobs written at `place` of a scenario by their yaml_key. Requires: `map` is a map.
// Errors: kUsage at the key or value; a knob of another place is told where it belongs.
base::Result<std::vector<KnobSetting>> knobs_at(const Source& source, const YamlNode& map, std::string_view place);

// A map of knobs by their names in the table, as in matrix, exclude, include, xfail and set; keys in `skip` are left out.
base::Result<KnobGroup> named_knobs(const Source& source, const YamlNode& node, std::string_view skip = "");

// Axes in the order of the file: {dtype: [fp32, bf16], layout: [{impl: ..., mesh: ...}, ...], ...}.
// Errors: kUsage at the key or value; at the second of two axes that set one knob, where it sets it.
base::Result<std::vector<MatrixAxis>> matrix_axes(const Source& source, const YamlNode& node);

// Names without blanks, pairwise different.
base::Result<std::vector<std::string>> tags_of(const Source& source, const YamlNode& node);

// "unknown key ...", with a hint where the knob belongs if it stands elsewhere in a scenario.
base::Error unknown_key(const Source& source, const YamlNode& key, const std::vector<std::string>& known);

}  // namespace moecheck::scenario
