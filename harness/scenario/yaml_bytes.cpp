#include "harness/scenario/yaml_bytes.h"

#include <cstdint>

#include <fmt/format.h>

namespace moecheck::scenario {
namespace {

constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

struct SequenceKind {
  std::size_t size;
  std::uint32_t bits;   // of the first byte
  std::uint32_t least;  // smaller code points are overlong
};

// {0, ...}: no UTF-8 sequence starts with `byte`.
SequenceKind kind_of(unsigned char byte) {
  if (byte < 0x80U) return {1, byte, 0};
  if ((byte & 0xE0U) == 0xC0U) return {2, byte & 0x1FU, 0x80};
  if ((byte & 0xF0U) == 0xE0U) return {3, byte & 0x0FU, 0x800};
  if ((byte & 0xF8U) == 0xF0U) return {4, byte & 0x07U, 0x10000};
  return {0, 0, 0};
}

// Size of the valid UTF-8 sequence at the beginning of `text`; 0 if there is none.
std::size_t sequence_size(std::string_view text) {
  const SequenceKind kind = kind_of(static_cast<unsigned char>(text[0]));
  if (kind.size == 0 || kind.size > text.size()) return 0;
  std::uint32_t code = kind.bits;
  for (std::size_t i = 1; i < kind.size; ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    if ((byte & 0xC0U) != 0x80U) return 0;
    code = (code << 6U) | (byte & 0x3FU);
  }
  const bool is_surrogate = code >= 0xD800 && code <= 0xDFFF;
  return code >= kind.least && code <= 0x10FFFF && !is_surrogate ? kind.size : 0;
}

// What is wrong with the byte at `at`; empty if it is fine.
std::string complaint(std::string_view text, std::size_t at) {
  const char byte = text[at];
  if (byte == '\n' || (byte == '\r' && at + 1 < text.size() && text[at + 1] == '\n')) return "";
  if (byte == '\t') return "tab character; indent and separate with blanks";
  if (static_cast<unsigned char>(byte) < 0x20 || byte == 0x7F)
    return fmt::format("control character 0x{:02x}; a YAML file is plain text", static_cast<unsigned>(byte));
  if (sequence_size(text.substr(at)) == 0)
    return fmt::format("byte 0x{:02x} is not UTF-8; save the file as UTF-8", static_cast<unsigned>(static_cast<unsigned char>(byte)));
  return "";
}

// A copy that can be printed: bytes that the excerpt must not carry to a terminal become '?'.
Source printable(const Source& source) {
  Source copy{source.path, source.text};
  for (char& byte : copy.text)
    if (byte != '\n' && (static_cast<unsigned char>(byte) < 0x20 || static_cast<unsigned char>(byte) >= 0x7F)) byte = '?';
  return copy;
}

}  // namespace

base::Status check_bytes(const Source& source) {
  if (source.text.starts_with(kByteOrderMark))
    return printable(source).error_at({1, 1, kByteOrderMark.size()}, "byte order mark; save the file as UTF-8 without it");
  Spot spot;
  for (std::size_t at = 0; at < source.text.size();) {
    if (const std::string wrong = complaint(source.text, at); !wrong.empty()) {
      // The printable copy has one '?' a byte.
      const std::size_t newline = source.text.rfind('\n', at);
      spot.column = at - (newline == std::string::npos ? 0 : newline + 1) + 1;
      return printable(source).error_at(spot, wrong);
    }
    if (source.text[at] == '\n') ++spot.line;
    at += sequence_size(std::string_view(source.text).substr(at));
  }
  return base::Ok{};
}

}  // namespace moecheck::scenario
