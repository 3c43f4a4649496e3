#include "harness/scenario/yaml_shape.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include <fmt/format.h>

#include "harness/base/nearest_name.h"

namespace moecheck::scenario {
namespace {

using base::Ok;
using base::Result;
using base::Status;
using cases::Field;
using cases::FieldType;

bool is_all_digits(std::string_view text) {
  return !text.empty() && std::ranges::all_of(text, [](char c) { return c >= '0' && c <= '9'; });
}

bool is_number_like(std::string_view text) {
  if (text.starts_with('-') || text.starts_with('+')) text.remove_prefix(1);
  return is_all_digits(text);
}

bool is_plain_boolean(const YamlNode& node) { return !node.is_quoted && (node.text == "true" || node.text == "false"); }
bool is_plain_number(const YamlNode& node) { return !node.is_quoted && is_number_like(node.text); }

std::string found(const YamlNode& node) {
  switch (node.kind) {
    case YamlKind::kNull: return "found nothing";
    case YamlKind::kList: return "found a list";
    case YamlKind::kMap: return "found a map";
    case YamlKind::kScalar: break;
  }
  if (is_plain_boolean(node)) return fmt::format("found the boolean {}", node.text);
  if (is_plain_number(node)) return fmt::format("found the number {}", node.text);
  return fmt::format("found the text '{}'", node.text);
}

// `010` is octal to some readers and ten to others: neither is guessed.
Status check_decimal(const Source& source, const YamlNode& node, std::string_view what) {
  if (node.kind != YamlKind::kScalar)
    return source.error_at(node.spot, fmt::format("{}: expected a whole number, {}", what, found(node)));
  if (node.is_quoted)
    return source.error_at(node.spot, fmt::format("{}: expected a whole number, {}; remove the quotes", what, found(node)));
  std::string_view digits = node.text;
  if (digits.starts_with('-')) digits.remove_prefix(1);
  if (!is_all_digits(digits))
    return source.error_at(node.spot, fmt::format("{}: expected a whole number in decimal digits, {}", what, found(node)));
  if (digits.size() > 1 && digits[0] == '0')
    return source.error_at(node.spot,
                           fmt::format("{}: the number {} has leading zeros; write it in plain decimal", what, node.text));
  return Ok{};
}

Status check_real(const Source& source, const YamlNode& node, std::string_view what) {
  if (node.kind == YamlKind::kScalar && !node.is_quoted) return Ok{};   // the knob table reads the digits
  return source.error_at(node.spot, fmt::format("{}: expected a number, {}", what, found(node)));
}

Status check_boolean(const Source& source, const YamlNode& node, std::string_view what) {
  if (node.kind == YamlKind::kScalar && is_plain_boolean(node)) return Ok{};
  return source.error_at(node.spot, fmt::format("{}: expected true or false, {}", what, found(node)));
}

Status check_name(const Source& source, const YamlNode& node, std::string_view what) {
  if (node.kind != YamlKind::kScalar) return source.error_at(node.spot, fmt::format("{}: expected a name, {}", what, found(node)));
  if (is_plain_boolean(node) || is_plain_number(node))
    return source.error_at(node.spot, fmt::format("{}: expected a name, {}; quote it if it is one", what, found(node)));
  return Ok{};
}

Status check_type(const Source& source, const Field& field, const YamlNode& node) {
  switch (field.type) {
    case FieldType::kInt:
    case FieldType::kIntList: return check_decimal(source, node, field.name);
    case FieldType::kReal: return check_real(source, node, field.name);
    case FieldType::kBool: return check_boolean(source, node, field.name);
    case FieldType::kName:
    case FieldType::kChoice:
    case FieldType::kNameList:
    case FieldType::kLayoutList:
    case FieldType::kMesh: return check_name(source, node, field.name);
  }
  return Ok{};
}

Result<std::string> single_text(const Source& source, const Field& field, const YamlNode& node) {
  if (auto type = check_type(source, field, node); !type) return type.error();
  auto canonical = cases::canonical_text(field, node.text);
  if (!canonical) return source.error_at(node.spot, fmt::format("{}: {}", field.name, canonical.error().message));
  return canonical;
}

// A separator would turn one item of a list knob into two.
Result<std::string> item_text(const Source& source, const Field& field, const YamlNode& item) {
  const char separator = cases::separator_of(field.type);
  if (item.kind == YamlKind::kScalar && item.text.find(separator) != std::string::npos)
    return source.error_at(item.spot, fmt::format("{}: an item may not have a {}; write a list", field.name, separator == ',' ? "comma" : "slash"));
  return single_text(source, field, item);
}

}  // namespace

const YamlNode* find_value(const YamlNode& map, std::string_view key) {
  for (const YamlEntry& entry : map.entries)
    if (entry.key.text == key) return &entry.value;
  return nullptr;
}

Status expect_map(const Source& source, const YamlNode& node, std::string_view of_what) {
  if (node.kind == YamlKind::kMap) return Ok{};
  return source.error_at(node.spot, fmt::format("expected a map of {}, {}", of_what, found(node)));
}

Status expect_list(const Source& source, const YamlNode& node, std::string_view of_what) {
  if (node.kind == YamlKind::kList) return Ok{};
  return source.error_at(node.spot, fmt::format("expected a list of {}, {}", of_what, found(node)));
}

Status check_keys(const Source& source, const YamlNode& map, const std::vector<std::string>& known) {
  for (const YamlEntry& entry : map.entries)
    if (std::ranges::find(known, entry.key.text) == known.end())
      return source.error_at(entry.key.spot,
                             fmt::format("unknown key '{}'{}", entry.key.text, base::suggestion(entry.key.text, known)));
  return Ok{};
}

Status check_version(const Source& source, const YamlNode& root) {
  const YamlNode* version = find_value(root, "version");
  if (version == nullptr) return source.error_at(root.spot, "version is missing; begin the file with `version: 1`");
  auto number = count_of(source, *version, "version");
  if (!number) return number.error();
  if (*number != 1)
    return source.error_at(version->spot, fmt::format("version {} is not known; this moecheck reads version 1", *number));
  return Ok{};
}

Result<std::string> text_of(const Source& source, const YamlNode& node, std::string_view what) {
  if (node.kind != YamlKind::kScalar) return source.error_at(node.spot, fmt::format("{}: expected text, {}", what, found(node)));
  if (node.text.find_first_not_of(" \n") == std::string::npos) return source.error_at(node.spot, fmt::format("{} is empty", what));
  if (is_plain_boolean(node) || is_plain_number(node))
    return source.error_at(node.spot, fmt::format("{}: expected text, {}; quote it if it is text", what, found(node)));
  return node.text;
}

Result<std::int64_t> count_of(const Source& source, const YamlNode& node, std::string_view what) {
  if (auto decimal = check_decimal(source, node, what); !decimal) return decimal.error();
  std::int64_t number = 0;
  const auto [end, code] = std::from_chars(node.text.data(), node.text.data() + node.text.size(), number);
  if (code != std::errc{} || number < 0) return source.error_at(node.spot, fmt::format("{}: {} is out of range", what, node.text));
  return number;
}

Result<double> positive_of(const Source& source, const YamlNode& node, std::string_view what) {
  double number = 0;
  const std::string_view text = node.is_quoted || node.kind != YamlKind::kScalar ? std::string_view() : std::string_view(node.text);
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (code != std::errc{} || end != text.data() + text.size() || !std::isfinite(number) || number <= 0)
    return source.error_at(node.spot, fmt::format("{}: expected a number above 0, {}", what, found(node)));
  return number;
}

Result<std::string> knob_text(const Source& source, const Field& field, const YamlNode& node) {
  if (!cases::is_list(field.type)) return single_text(source, field, node);
  if (node.kind != YamlKind::kList) return item_text(source, field, node);
  if (node.items.empty()) return source.error_at(node.spot, fmt::format("{}: the list is empty; give one value at least", field.name));
  std::string joined;
  for (const YamlNode& item : node.items) {
    auto text = item_text(source, field, item);
    if (!text) return text.error();
    if (!joined.empty()) joined += cases::separator_of(field.type);
    joined += *text;
  }
  return joined;
}

}  // namespace moecheck::scenario
