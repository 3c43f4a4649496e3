// JSON, by nlohmann/json; objects keep the order in which keys were added, so that files are reproducible.
#pragma once

#include <filesystem>
#include <string_view>

#include <nlohmann/json.hpp>

#include "harness/base/result.h"

namespace moecheck::base {

using Json = nlohmann::ordered_json;

// Errors: kDamaged with the byte offset; never throws.
Result<Json> parse_json(std::string_view text, std::string_view where);
Result<Json> read_json_file(const std::filesystem::path& path);

}  // namespace moecheck::base
