#include "harness/scenario/load.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "harness/scenario/knob_groups.h"
#include "harness/scenario/yaml_shape.h"

namespace moecheck::scenario {
namespace {

using base::Ok;
using base::Result;
using base::Status;

constexpr std::array<std::string_view, 8> kOwnKeys = {"version", "description", "matrix", "cover",
                                                      "exclude", "include",     "xfail",  "tags"};

std::vector<std::string> top_level_keys() {
  std::vector<std::string> keys(kOwnKeys.begin(), kOwnKeys.end());
  for (const auto& more : {keys_at(""), knob_places()}) keys.insert(keys.end(), more.begin(), more.end());
  return keys;
}

Status read_description(Scenario& into, const YamlNode& node) {
  auto text = text_of(into.source, node, "description");
  if (!text) return text.error();
  into.description = std::move(*text);
  return Ok{};
}

Status read_matrix(Scenario& into, const YamlNode& node) {
  auto axes = matrix_axes(into.source, node);
  if (!axes) return axes.error();
  into.matrix = std::move(*axes);
  into.has_matrix = true;
  return Ok{};
}

Result<std::vector<KnobGroup>> read_groups(const Source& source, const YamlNode& node, std::string_view key) {
  if (auto list = expect_list(source, node, "maps of knobs"); !list) return list.error();
  std::vector<KnobGroup> groups;
  for (const YamlNode& item : node.items) {
    auto group = named_knobs(source, item);
    if (!group) return group.error();
    if (group->knobs.empty()) return source.error_at(item.spot, fmt::format("an entry of {} names no knob", key));
    groups.push_back(std::move(*group));
  }
  return groups;
}

Status read_exclude(Scenario& into, const YamlNode& node) {
  auto groups = read_groups(into.source, node, "exclude");
  if (!groups) return groups.error();
  into.exclude = std::move(*groups);
  return Ok{};
}

Status read_include(Scenario& into, const YamlNode& node) {
  auto groups = read_groups(into.source, node, "include");
  if (!groups) return groups.error();
  into.include = std::move(*groups);
  return Ok{};
}

Status read_xfail(Scenario& into, const YamlNode& node) {
  if (node.kind == YamlKind::kMap && node.entries.empty()) return Ok{};
  if (node.kind == YamlKind::kMap)
    return into.source.error_at(node.spot, "xfail is {} or a list: [{knob: value, reason: text}]");
  if (auto list = expect_list(into.source, node, "{knob: value, reason: text}"); !list) return list.error();
  for (const YamlNode& item : node.items) {
    auto when = named_knobs(into.source, item, "reason");
    if (!when) return when.error();
    const YamlNode* reason = find_value(item, "reason");
    if (reason == nullptr) return into.source.error_at(item.spot, "an xfail needs a reason: {knob: value, reason: text}");
    auto text = text_of(into.source, *reason, "reason");
    if (!text) return text.error();
    into.xfail.push_back({std::move(*when), std::move(*text)});
  }
  return Ok{};
}

Status read_tags(Scenario& into, const YamlNode& node) {
  auto tags = tags_of(into.source, node);
  if (!tags) return tags.error();
  into.tags = std::move(*tags);
  return Ok{};
}

Status read_knobs(Scenario& into, const YamlNode& map, std::string_view place) {
  if (auto is_map = expect_map(into.source, map, fmt::format("{} knobs", place)); !is_map) return is_map.error();
  auto knobs = knobs_at(into.source, map, place);
  if (!knobs) return knobs.error();
  into.base.insert(into.base.end(), knobs->begin(), knobs->end());
  return Ok{};
}

Status read_top_level_knob(Scenario& into, const YamlEntry& entry) {
  YamlNode single;
  single.kind = YamlKind::kMap;
  single.entries.push_back(entry);
  return read_knobs(into, single, "");
}

Status read_entry(Scenario& into, const YamlEntry& entry) {
  const std::string& key = entry.key.text;
  if (key == "version") return Ok{};
  if (key == "description") return read_description(into, entry.value);
  if (key == "matrix") return read_matrix(into, entry.value);
  if (key == "cover") {
    auto cover = cover_of(into.source, entry.value);
    if (!cover) return cover.error();
    into.cover = *cover;
    return Ok{};
  }
  if (key == "exclude") return read_exclude(into, entry.value);
  if (key == "include") return read_include(into, entry.value);
  if (key == "xfail") return read_xfail(into, entry.value);
  if (key == "tags") return read_tags(into, entry.value);
  const auto places = knob_places();
  if (std::ranges::find(places, key) != places.end()) return read_knobs(into, entry.value, key);
  return read_top_level_knob(into, entry);
}

// Every setting of a knob by the matrix, in the order of the file; of a knob's axis one for each value.
std::vector<const KnobSetting*> matrix_settings(const Scenario& scenario) {
  std::vector<const KnobSetting*> settings;
  for (const MatrixAxis& axis : scenario.matrix)
    for (const KnobGroup& value : axis.values)
      for (const KnobSetting& knob : value.knobs) settings.push_back(&knob);
  return settings;
}

// One knob, one place: what the matrix sets cannot be set beside it.
Status check_axes(const Scenario& scenario) {
  for (const KnobSetting* knob : matrix_settings(scenario)) {
    const auto base = std::ranges::find(scenario.base, knob->knob, &KnobSetting::knob);
    if (base != scenario.base.end())
      return scenario.source.error_at(
          knob->key_spot, fmt::format("{} is set by the matrix and on line {}; remove one", knob->knob, base->key_spot.line));
  }
  return Ok{};
}

Status check_cover(const Scenario& scenario) {
  if (!scenario.cover) return Ok{};
  if (!scenario.has_matrix) return scenario.source.error_at(scenario.cover->spot, "cover chooses among the cases of a matrix; there is none");
  if (scenario.cover->strength > scenario.matrix.size())
    return scenario.source.error_at(scenario.cover->spot, fmt::format("cover: {} needs as many axes; the matrix has {}",
                                                                      scenario.cover->strength, scenario.matrix.size()));
  return Ok{};
}

Spot model_spot(const Scenario& scenario) {
  const auto base = std::ranges::find(scenario.base, "model", &KnobSetting::knob);
  if (base != scenario.base.end()) return base->spot;
  for (const KnobSetting* knob : matrix_settings(scenario))
    if (knob->knob == "model") return knob->key_spot;
  return Spot{};
}

}  // namespace

Result<Cover> cover_of(const Source& source, const YamlNode& node) {
  auto strength = count_of(source, node, "cover");
  if (!strength) return strength.error();
  if (*strength < kMinCover || *strength > kMaxCover)
    return source.error_at(node.spot, fmt::format("cover: expected a number from {} to {}, found {}", kMinCover, kMaxCover, *strength));
  return Cover{static_cast<std::size_t>(*strength), node.spot};
}

Result<Scenario> scenario_of(YamlDocument document, std::string name) {
  Scenario scenario;
  scenario.source = std::move(document.source);
  scenario.name = std::move(name);
  const YamlNode& root = document.root;
  if (auto map = expect_map(scenario.source, root, "scenario keys"); !map) return map.error();
  if (auto version = check_version(scenario.source, root); !version) return version.error();
  const auto known = top_level_keys();
  for (const YamlEntry& entry : root.entries) {
    if (entry.key.text == "suite") return scenario.source.error_at(entry.key.spot, "this is a suite; a scenario is expected here");
    if (std::ranges::find(known, entry.key.text) == known.end()) return unknown_key(scenario.source, entry.key, known);
    if (auto read = read_entry(scenario, entry); !read) return read.error();
  }
  if (auto axes = check_axes(scenario); !axes) return axes.error();
  if (auto cover = check_cover(scenario); !cover) return cover.error();
  scenario.model_spot = model_spot(scenario);
  return scenario;
}

std::string scenario_name(const std::filesystem::path& path, const std::filesystem::path& scenarios_dir) {
  std::error_code code;
  // Absolute first: a folder that is not there yet would stay relative, and have nothing in common with the path.
  const auto below = std::filesystem::relative(std::filesystem::absolute(path), std::filesystem::absolute(scenarios_dir), code);
  const bool is_below = !code && !below.empty() && *below.begin() != "..";
  auto name = is_below ? below : path;
  return name.replace_extension().generic_string();
}

Result<Scenario> load_scenario(const std::filesystem::path& path, const std::filesystem::path& scenarios_dir) {
  auto document = read_yaml(path);
  if (!document) return document.error();
  return scenario_of(std::move(*document), scenario_name(path, scenarios_dir));
}

}  // namespace moecheck::scenario
