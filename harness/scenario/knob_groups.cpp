#include "harness/scenario/knob_groups.h"

#include <algorithm>
#include <map>

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

bool is_same(const KnobGroup& one, const KnobGroup& other) {
  const auto stands_in_other = [&](const KnobSetting& knob) {
    return std::ranges::any_of(other.knobs, [&](const KnobSetting& o) { return o.knob == knob.knob && o.text == knob.text; });
  };
  return one.knobs.size() == other.knobs.size() && std::ranges::all_of(one.knobs, stands_in_other);
}

// Appends `value` unless the axis has it already.
base::Status add_value(const Source& source, MatrixAxis& into, KnobGroup value, std::string_view shown) {
  if (std::ranges::any_of(into.values, [&](const KnobGroup& earlier) { return is_same(earlier, value); }))
    return source.error_at(value.spot, fmt::format("{} lists {} twice", into.name, shown));
  into.values.push_back(std::move(value));
  return base::Ok{};
}

Result<MatrixAxis> knob_axis(const Source& source, const Field& field, const YamlEntry& entry) {
  if (auto list = expect_list(source, entry.value, fmt::format("values of {}", field.name)); !list) return list.error();
  if (entry.value.items.empty())
    return source.error_at(entry.value.spot, fmt::format("{} has no values, so that the matrix would have no case", field.name));
  MatrixAxis axis{std::string(field.name), {}, entry.key.spot};
  for (const YamlNode& item : entry.value.items) {
    auto text = knob_text(source, field, item);
    if (!text) return text.error();
    const std::string shown = fmt::format("'{}'", *text);
    KnobGroup value{{{axis.name, std::move(*text), entry.key.spot, item.spot}}, item.spot};
    if (auto added = add_value(source, axis, std::move(value), shown); !added) return added.error();
  }
  return axis;
}

// Requires: the value of `entry` is a list of maps.
Result<MatrixAxis> bundle_axis(const Source& source, const YamlEntry& entry) {
  MatrixAxis axis{entry.key.text, {}, entry.key.spot};
  for (const YamlNode& item : entry.value.items) {
    auto value = named_knobs(source, item);
    if (!value) return value.error();
    if (value->knobs.empty()) return source.error_at(item.spot, fmt::format("a value of {} names no knob", axis.name));
    if (auto added = add_value(source, axis, std::move(*value), "these knobs"); !added) return added.error();
  }
  return axis;
}

Result<MatrixAxis> axis_of(const Source& source, const YamlEntry& entry) {
  const auto is_map = [](const YamlNode& node) { return node.kind == YamlKind::kMap; };
  const auto& items = entry.value.items;
  const bool has_maps = std::ranges::any_of(items, is_map);
  const auto other = std::ranges::find_if(items, [&](const YamlNode& item) { return is_map(item) != is_map(items[0]); });
  if (other != items.end())
    return source.error_at(other->spot, fmt::format("{} has maps of knobs and plain values; an axis has one kind", entry.key.text));
  const Field* field = cases::find_field(entry.key.text);
  if (has_maps && field != nullptr)
    return source.error_at(entry.key.spot, fmt::format("{} is a knob; an axis of maps needs a name of its own", entry.key.text));
  if (has_maps) return bundle_axis(source, entry);
  if (field == nullptr && is_map(entry.value)) return expect_list(source, entry.value, "maps of knobs").error();
  auto named = named_field(source, entry.key);
  if (!named) return named.error();
  return knob_axis(source, **named, entry);
}

// Which axis sets a knob, and on which line.
struct Setter {
  std::string axis;
  std::size_t line;
};
using Setters = std::map<std::string, Setter, std::less<>>;

// One knob, one axis. Adds the knobs of `axis` to those of the axes above it.
base::Status add_setters(const Source& source, Setters& into, const MatrixAxis& axis) {
  for (const KnobGroup& value : axis.values) {
    for (const KnobSetting& knob : value.knobs) {
      const Setter& setter = into.try_emplace(knob.knob, Setter{axis.name, knob.key_spot.line}).first->second;
      if (setter.axis != axis.name)
        return source.error_at(knob.key_spot, fmt::format("{} is set by the axis {} already, on line {}; one axis sets a knob",
                                                          knob.knob, setter.axis, setter.line));
    }
  }
  return base::Ok{};
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
  Setters setters;
  for (const YamlEntry& entry : node.entries) {
    auto axis = axis_of(source, entry);
    if (!axis) return axis.error();
    if (auto added = add_setters(source, setters, *axis); !added) return added.error();
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
