// Numbers in JSON, where NaN and the infinities are strings.
#pragma once

#include <cmath>
#include <limits>

#include "harness/base/json.h"

namespace moecheck::record {

inline base::Json number_json(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  return value;
}

inline double number_from_json(const base::Json& json) {
  if (!json.is_string()) return json.get<double>();
  const auto text = json.get<std::string>();
  if (text == "nan") return std::numeric_limits<double>::quiet_NaN();
  return text == "-inf" ? -std::numeric_limits<double>::infinity() : std::numeric_limits<double>::infinity();
}

}  // namespace moecheck::record
