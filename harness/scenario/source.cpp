#include "harness/scenario/source.h"

#include <algorithm>

#include <fmt/format.h>

namespace moecheck::scenario {
namespace {

// Longer lines are cut to a window around the spot, so that a message stays readable on a terminal.
constexpr std::size_t kMaxExcerpt = 120;

bool starts_character(char byte) { return (static_cast<unsigned char>(byte) & 0xC0U) != 0x80U; }

std::string_view line_of(std::string_view text, std::size_t line) {
  for (std::size_t i = 1; i < line; ++i) {
    const auto end = text.find('\n');
    if (end == std::string_view::npos) return "";
    text.remove_prefix(end + 1);
  }
  std::string_view found = text.substr(0, text.find('\n'));
  if (found.ends_with('\r')) found.remove_suffix(1);
  return found;
}

// The characters [first, first + count) of `line`.
std::string_view characters(std::string_view line, std::size_t first, std::size_t count) {
  std::size_t begin = 0;
  for (; begin < line.size() && first > 0; --first) {
    ++begin;
    while (begin < line.size() && !starts_character(line[begin])) ++begin;
  }
  std::size_t end = begin;
  for (; end < line.size() && count > 0; --count) {
    ++end;
    while (end < line.size() && !starts_character(line[end])) ++end;
  }
  return line.substr(begin, end - begin);
}

}  // namespace

std::size_t num_characters(std::string_view text) {
  return static_cast<std::size_t>(std::ranges::count_if(text, starts_character));
}

std::string Source::where(const Spot& spot) const { return fmt::format("{}:{}:{}", path, spot.line, spot.column); }

base::Error Source::error_at(const Spot& spot, std::string_view message) const {
  const std::string_view line = line_of(text, spot.line);
  const std::size_t before = spot.column - 1;
  const std::size_t first = before < kMaxExcerpt - kMaxExcerpt / 4 ? 0 : before - kMaxExcerpt / 2;
  const std::string_view shown = characters(line, first, kMaxExcerpt);
  const std::size_t indent = before - first;
  const std::size_t rest = num_characters(shown) > indent ? num_characters(shown) - indent : 1;
  const std::size_t width = std::clamp<std::size_t>(spot.width, 1, rest);
  const std::string number = std::to_string(spot.line);
  std::string out = fmt::format("{}\n  {} | {}\n  {} | {}^{}", message, number, shown, std::string(number.size(), ' '),
                                std::string(indent, ' '), std::string(width - 1, '~'));
  return {base::ErrorCode::kUsage, std::move(out), where(spot)};
}

}  // namespace moecheck::scenario
