#include "harness/base/json.h"

#include <fmt/format.h>

#include "harness/base/files.h"

namespace moecheck::base {

Result<Json> parse_json(std::string_view text, std::string_view where) {
  try {
    return Json::parse(text);
  } catch (const Json::parse_error& e) {
    return Error{ErrorCode::kDamaged, fmt::format("not valid JSON at byte {}: {}", e.byte, e.what()), std::string(where)};
  } catch (const Json::out_of_range& e) {  // a number that no type holds, as 1e999
    return Error{ErrorCode::kDamaged, fmt::format("not valid JSON: {}", e.what()), std::string(where)};
  }
}

Result<Json> read_json_file(const std::filesystem::path& path) {
  auto text = read_file(path);
  if (!text) return text.error();
  return parse_json(*text, path.string());
}

}  // namespace moecheck::base
