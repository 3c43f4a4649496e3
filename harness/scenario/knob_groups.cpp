#include "harness/scenario/knob_groups.h"

#include <algorithm>

#include <fmt/format.h>

#include "harness/base/nearest_name.h"
#include "harness/cases/fields.h"
#include "harness/scenario/yaml_shape.h"

namespace moecheck::scenario {
namespace {

using base::Result;
using cases::Field;

const Field* field_at(std::string_view place, std::string_view key) {
  for (const Field& field : cases::fields())
    if (field.yaml_place == place && field.yaml_key == key) return &field;
  return nullptr;
}

// "'experts' belongs under override: {experts: ...}"; empty if no place has such a key.
std::string elsewhere(std::string_view key) {
  for (const Field& field : cases::fields()) {
    if (field.yaml_key != key && field.name != key) continue;
    if (field.yaml_place.empty()) return fmt::format("'{}' belongs at the top level", field.yaml_key);
    return fmt::format("'{}' belongs under {}: {{{}: ...}}", key, field.yaml_place, field.yaml_key);
  }
  return "";
}

// Errors: an unknown knob; one that is known by its key in a scenario is told its name.
Result<const Field*> named_field(const Source& source, const YamlNode& key) {
  if (const Field* field = cases::find_field(key.text)) return field;
  for (const Field& field : cases::fields())
    if (field.yaml_key == key.text)
      return source.error_at(key.spot, fmt::format("unknown knob '{}'; here {}.{} is called '{}'", key.text, field.yaml_place,
                                                   key.text, field.name));
  return source.error_at(key.spot,
                         fmt::format("unknown knob '{}'{}", key.text, base::suggestion(key.text, cases::field_names())));
}

Result<MatrixAxis> axis_of(const Source& source, const Field& field, const YamlEntry& entry) {
  if (auto list = expect_list(source, entry.value, fmt::format("values of {}", field.name)); !list) return list.error();
  if (entry.value.items.empty())
    return source.error_at(entry.value.spot, fmt::format("{} has no values, so that the matrix would have no case", field.name));
  MatrixAxis axis{std::string(field.name), {}, entry.key.spot};
  for (const YamlNode& item : entry.value.items) {
    auto text = knob_text(source, field, item);
    if (!text) return text.error();
    if (std::ranges::find(axis.values, *text, &AxisValue::text) != axis.values.end())
      return source.error_at(item.spot, fmt::format("{} lists '{}' twice", field.name, *text));
    axis.values.push_back({std::move(*text), item.spot});
  }
  return axis;
}

}  // namespace

std::vector<std::string> knob_places() {
  std::vector<std::string> places;
  for (const Field& field : cases::fields())
    if (!field.yaml_place.empty() && std::ranges::find(places, field.yaml_place) == places.end())
      places.emplace_back(field.yaml_place);
  return places;
}

std::vector<std::string> keys_at(std::string_view place) {
  std::vector<std::string> keys;
  for (const Field& field : cases::fields())
    if (field.yaml_place == place) keys.emplace_back(field.yaml_key);
  return keys;
}

base::Error unknown_key(const Source& source, const YamlNode& key, const std::vector<std::string>& known) {
  if (const std::string hint = elsewhere(key.text); !hint.empty())
    return source.error_at(key.spot, fmt::format("unknown key '{}' here; {}", key.text, hint));
  return source.error_at(key.spot, fmt::format("unknown key '{}'{}", key.text, base::suggestion(key.text, known)));
}

Result<std::vector<KnobSetting>> knobs_at(const Source& source, const YamlNode& map, std::string_view place) {
  std::vector<KnobSetting> knobs;
  for (const YamlEntry& entry : map.entries) {
    const Field* field = field_at(place, entry.key.text);
    if (field == nullptr) return unknown_key(source, entry.key, keys_at(place));
    auto text = knob_text(source, *field, entry.value);
    if (!text) return text.error();
    knobs.push_back({std::string(field->name), std::move(*text), entry.key.spot, entry.value.spot});
  }
  return knobs;
}

Result<KnobGroup> named_knobs(const Source& source, const YamlNode& node, std::string_view skip) {
  if (auto map = expect_map(source, node, "knobs"); !map) return map.error();
  KnobGroup group{{}, node.spot};
  for (const YamlEntry& entry : node.entries) {
    if (entry.key.text == skip) continue;
    auto field = named_field(source, entry.key);
    if (!field) return field.error();
    auto text = knob_text(source, **field, entry.value);
    if (!text) return text.error();
    group.knobs.push_back({entry.key.text, std::move(*text), entry.key.spot, entry.value.spot});
  }
  return group;
}

Result<std::vector<MatrixAxis>> matrix_axes(const Source& source, const YamlNode& node) {
  if (auto map = expect_map(source, node, "knobs, each with a list of values"); !map) return map.error();
  std::vector<MatrixAxis> axes;
  for (const YamlEntry& entry : node.entries) {
    auto field = named_field(source, entry.key);
    if (!field) return field.error();
    auto axis = axis_of(source, **field, entry);
    if (!axis) return axis.error();
    axes.push_back(std::move(*axis));
  }
  return axes;
}

Result<std::vector<std::string>> tags_of(const Source& source, const YamlNode& node) {
  if (auto list = expect_list(source, node, "tags"); !list) return list.error();
  std::vector<std::string> tags;
  for (const YamlNode& item : node.items) {
    auto tag = text_of(source, item, "tag");
    if (!tag) return tag.error();
    if (tag->find_first_of(" ,\n") != std::string::npos)
      return source.error_at(item.spot, fmt::format("a tag is one word, found '{}'", *tag));
    if (std::ranges::find(tags, *tag) != tags.end()) return source.error_at(item.spot, fmt::format("tag '{}' stands twice", *tag));
    tags.push_back(std::move(*tag));
  }
  return tags;
}

}  // namespace moecheck::scenario
