#include "harness/cases/field_text.h"

#include <charconv>

#include <fmt/format.h>

namespace moecheck::cases {

base::Error usage(std::string message) { return {base::ErrorCode::kUsage, std::move(message), ""}; }

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  while (true) {
    const auto at = text.find(separator);
    parts.emplace_back(text.substr(0, at));
    if (at == std::string_view::npos) return parts;
    text.remove_prefix(at + 1);
  }
}

base::Result<std::int64_t> parse_int(std::string_view text) {
  std::int64_t value = 0;
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (code != std::errc{} || end != text.data() + text.size() || text.empty())
    return usage(fmt::format("expected a whole number, found '{}'", text));
  return value;
}

}  // namespace moecheck::cases
