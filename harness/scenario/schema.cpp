#include "harness/scenario/schema.h"

#include <fmt/format.h>

#include "harness/cases/fields.h"
#include "harness/scenario/knob_groups.h"
#include "harness/scenario/scenario.h"

namespace moecheck::scenario {
namespace {

using base::Json;
using cases::Field;
using cases::FieldType;

constexpr const char* kNamePattern = "^[A-Za-z0-9_.-]+$";
constexpr const char* kMeshPattern = "^(none|(dp|fsdp|ep|tp)=[0-9]+(,(dp|fsdp|ep|tp)=[0-9]+)*)$";
constexpr const char* kLayoutPattern = "^(never|back|([A-Za-z0-9_.-]+@)?(none|(dp|fsdp|ep|tp)=[0-9]+(,(dp|fsdp|ep|tp)=[0-9]+)*))$";
constexpr const char* kTagPattern = "^[^ ,\\n]+$";

Json name_schema(const Field& field) {
  if (field.choices.empty()) return {{"type", "string"}, {"pattern", kNamePattern}};
  Json choices = Json::array();
  for (const auto choice : field.choices) choices.push_back(choice);
  return {{"enum", choices}};
}

Json int_schema(const Field& field) { return {{"type", "integer"}, {"minimum", field.min}, {"maximum", field.max}}; }

Json one_or_list(const Json& item) {
  return {{"anyOf", Json::array({item, Json{{"type", "array"}, {"items", item}, {"minItems", 1}}})}};
}

Json type_schema(const Field& field) {
  switch (field.type) {
    case FieldType::kName:
    case FieldType::kChoice: return name_schema(field);
    case FieldType::kInt: return int_schema(field);
    case FieldType::kReal: return {{"type", "number"}, {"minimum", field.min}, {"maximum", field.max}};
    case FieldType::kBool: return {{"type", "boolean"}};
    case FieldType::kIntList: return one_or_list(int_schema(field));
    case FieldType::kNameList: return one_or_list(name_schema(field));
    case FieldType::kLayoutList: return one_or_list({{"type", "string"}, {"pattern", kLayoutPattern}});
    case FieldType::kMesh: return {{"type", "string"}, {"pattern", kMeshPattern}};
  }
  return Json::object();
}

// One definition a knob, used wherever the knob may stand.
Json knob_definitions() {
  Json definitions = Json::object();
  for (const Field& field : cases::fields()) {
    Json one = {{"description", field.doc}};
    if (!field.default_text.empty()) one["description"] = fmt::format("{}; default {}", field.doc, field.default_text);
    one.update(type_schema(field));
    definitions[std::string(field.name)] = std::move(one);
  }
  return definitions;
}

Json reference_to(const Field& field) { return {{"$ref", fmt::format("#/$defs/{}", field.name)}}; }

Json closed_object(Json properties) {
  return {{"type", "object"}, {"properties", std::move(properties)}, {"additionalProperties", false}};
}

Json knobs_at_place(std::string_view place) {
  Json properties = Json::object();
  for (const Field& field : cases::fields())
    if (field.yaml_place == place) properties[std::string(field.yaml_key)] = reference_to(field);
  return properties;
}

Json all_knobs() {
  Json properties = Json::object();
  for (const Field& field : cases::fields()) properties[std::string(field.name)] = reference_to(field);
  return properties;
}

// A map of knobs by their names, at least one.
Json group_schema() {
  Json group = closed_object(all_knobs());
  group["minProperties"] = 1;
  return group;
}

Json axis_schema(Json value) { return {{"type", "array"}, {"items", std::move(value)}, {"minItems", 1}, {"uniqueItems", true}}; }

Json matrix_schema() {
  Json properties = Json::object();
  for (const Field& field : cases::fields()) properties[std::string(field.name)] = axis_schema(reference_to(field));
  Json bundle = axis_schema(group_schema());
  bundle["description"] = "an axis of a free name, each of whose values sets several knobs together";
  return {{"description", "the product of these lists of values makes the cases"},
          {"type", "object"}, {"properties", std::move(properties)}, {"additionalProperties", std::move(bundle)}};
}

Json cover_schema() {
  return {{"description", "instead of the whole product of the matrix a few of its cases, in which every combination of values of every "
                          "so many axes occurs"},
          {"type", "integer"}, {"minimum", kMinCover}, {"maximum", kMaxCover}};
}

Json group_list(std::string_view description) {
  return {{"description", description}, {"type", "array"}, {"items", group_schema()}};
}

Json xfail_schema() {
  Json properties = all_knobs();
  properties["reason"] = {{"type", "string"}, {"minLength", 1}, {"description", "why these cases are expected to fail"}};
  Json entry = closed_object(std::move(properties));
  entry["required"] = Json::array({"reason"});
  return {{"description", "cases that are expected to fail; one that passes is a failure"},
          {"anyOf", Json::array({Json{{"type", "object"}, {"maxProperties", 0}},
                                 Json{{"type", "array"}, {"items", std::move(entry)}}})}};
}

Json tags_schema() {
  return {{"description", "words to select by with --tag"}, {"type", "array"},
          {"items", {{"type", "string"}, {"pattern", kTagPattern}}}, {"uniqueItems", true}};
}

}  // namespace

Json scenario_schema() {
  Json properties = {{"version", {{"description", "version of this format"}, {"const", 1}}},
                     {"description",
                      {{"description", "what the scenario is for, in one line"}, {"type", "string"}, {"minLength", 1}}}};
  properties.update(knobs_at_place(""));
  for (const std::string& place : knob_places()) properties[place] = closed_object(knobs_at_place(place));
  properties["matrix"] = matrix_schema();
  properties["cover"] = cover_schema();
  properties["exclude"] = group_list("removes the cases of the matrix that equal an entry in all its knobs");
  properties["include"] = group_list("adds whole cases, after exclude: the base knobs and those of the entry");
  properties["xfail"] = xfail_schema();
  properties["tags"] = tags_schema();
  Json schema = {{"$schema", "https://json-schema.org/draft/2020-12/schema"},
                 {"title", "moecheck scenario"},
                 {"description", "Generated from the knob table; `moecheck schema` prints it."}};
  schema.update(closed_object(std::move(properties)));
  schema["required"] = Json::array({"version"});
  schema["dependentRequired"] = {{"cover", Json::array({"matrix"})}};
  schema["$defs"] = knob_definitions();
  return schema;
}

}  // namespace moecheck::scenario
