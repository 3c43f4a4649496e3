#include "reports/escape.h"

#include <algorithm>
#include <cctype>
#include <cstdint>

#include <fmt/format.h>

namespace moecheck::reports {
namespace {

struct CodePoint {
  std::uint32_t value = 0;
  std::size_t num_bytes = 0;  // 0: the first byte does not begin a well-formed sequence
};

// Well-formed UTF-8 only (Unicode table 3-7): no overlong forms, no surrogates, nothing above U+10FFFF.
CodePoint decode(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<std::uint32_t>(static_cast<unsigned char>(text[i])); };
  const std::uint32_t lead = byte(0);
  if (lead < 0x80) return {lead, 1};
  const std::size_t num_bytes = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (lead < 0xC2 || lead > 0xF4 || text.size() < num_bytes) return {};
  std::uint32_t value = lead & (0x7FU >> num_bytes);
  for (std::size_t i = 1; i < num_bytes; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return {};
    value = value << 6 | (byte(i) & 0x3F);
  }
  constexpr std::uint32_t kSmallest[] = {0, 0, 0x80, 0x800, 0x10000};
  const bool is_surrogate = value >= 0xD800 && value <= 0xDFFF;
  if (value < kSmallest[num_bytes] || is_surrogate || value > 0x10FFFF) return {};
  return {value, num_bytes};
}

bool is_control(std::uint32_t value) { return value < 0x20 || (value >= 0x7F && value <= 0x9F); }

// Characters that change how their neighbours are shown, or that XML 1.0 forbids.
bool is_invisible(std::uint32_t value) {
  const bool is_bidi = value == 0x061C || value == 0x200E || value == 0x200F || (value >= 0x202A && value <= 0x202E) ||
                       (value >= 0x2066 && value <= 0x2069);
  const bool is_separator = value == 0x2028 || value == 0x2029 || value == 0xFEFF;
  return is_bidi || is_separator || (value & 0xFFFE) == 0xFFFE;
}

std::string spelled_out(std::uint32_t value) {
  if (value == '\n') return "\\n";
  if (value == '\r') return "\\r";
  if (value == '\t') return " ";
  return value < 0x80 ? fmt::format("\\x{:02x}", value) : fmt::format("\\u{{{:x}}}", value);
}

std::string_view xml_entity(char c) {
  switch (c) {
    case '&': return "&amp;";
    case '<': return "&lt;";
    case '>': return "&gt;";
    case '"': return "&quot;";
    case '\'': return "&#39;";
    default: return {};
  }
}

std::string with_entities(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const auto entity = xml_entity(c);
    if (entity.empty())
      out += c;
    else
      out += entity;
  }
  return out;
}

bool is_word(std::string_view text, std::size_t i) {
  return i < text.size() && std::isalnum(static_cast<unsigned char>(text[i])) != 0;
}

std::size_t longest_backtick_run(std::string_view text) {
  std::size_t longest = 0;
  std::size_t run = 0;
  for (const char c : text) {
    run = c == '`' ? run + 1 : 0;
    longest = std::max(longest, run);
  }
  return longest;
}

}  // namespace

std::string printable_line(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const CodePoint code = decode(text);
    if (code.num_bytes == 0)
      out += fmt::format("\\x{:02x}", static_cast<unsigned char>(text[0]));
    else if (is_control(code.value) || is_invisible(code.value))
      out += spelled_out(code.value);
    else
      out += text.substr(0, code.num_bytes);
    text.remove_prefix(std::max<std::size_t>(code.num_bytes, 1));
  }
  return out;
}

std::string printable_text(std::string_view text) {
  std::string out;
  while (true) {
    const auto end = text.find('\n');
    std::string_view line = text.substr(0, end);
    if (end != std::string_view::npos && line.ends_with('\r')) line.remove_suffix(1);
    out += printable_line(line);
    if (end == std::string_view::npos) return out;
    out += '\n';
    text.remove_prefix(end + 1);
  }
}

std::string escape_xml(std::string_view text) { return with_entities(printable_text(text)); }
std::string escape_xml_line(std::string_view text) { return with_entities(printable_line(text)); }

std::string escape_markdown(std::string_view text) {
  constexpr std::string_view kSpecial = "\\`*_{}[]<>|#~$";
  const std::string line = printable_line(text);
  std::string out;
  for (std::size_t i = 0; i < line.size(); ++i) {
    const char c = line[i];
    // Between letters an underscore is no emphasis in GitHub's dialect; names stay readable in the raw file.
    const bool is_inside_name = c == '_' && i > 0 && is_word(line, i - 1) && is_word(line, i + 1);
    if (c == '&')
      out += "&amp;";
    else if (c == '<')
      out += "&lt;";  // a backslash would do for Markdown, but not for renderers that pass HTML through first
    else if (kSpecial.find(c) != std::string_view::npos && !is_inside_name)
      out += {'\\', c};
    else
      out += c;
  }
  return out;
}

std::string markdown_code_block(std::string_view text) {
  const std::string content = printable_text(text);
  const std::string fence(std::max<std::size_t>(3, longest_backtick_run(content) + 1), '`');
  return fence + "\n" + content + "\n" + fence + "\n";
}

}  // namespace moecheck::reports
