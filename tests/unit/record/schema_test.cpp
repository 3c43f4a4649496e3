// schema/run.schema.json and the serializer say the same. The walker below knows just the keywords that this schema uses and
// complains about any other, so that no part of the schema can go unread.
#include <algorithm>
#include <filesystem>
#include <set>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "harness/record/run_record.h"
#include "tests/unit/record/full_record.h"

namespace moecheck::record {
namespace {

using base::Json;

Json load_schema() {
  auto schema = base::read_json_file(std::filesystem::path(MOECHECK_SOURCE_DIR) / "schema/run.schema.json");
  EXPECT_TRUE(schema.ok());
  return schema.ok() ? *schema : Json::object();
}

bool is_of_type(const Json& value, const std::string& type) {
  if (type == "object") return value.is_object();
  if (type == "array") return value.is_array();
  if (type == "string") return value.is_string();
  if (type == "boolean") return value.is_boolean();
  if (type == "integer") return value.is_number_integer();
  if (type == "number") return value.is_number();
  return type == "null" && value.is_null();
}

class Walker {
 public:
  explicit Walker(Json schema) : root_(std::move(schema)) {}

  // What is wrong with `value`, one line each, with its path.
  std::vector<std::string> errors(const Json& value) const { return walk(root_, value, ""); }
  // Keys of objects in `value` that the schema does not name.
  std::vector<std::string> unnamed_keys(const Json& value) const { return unnamed(root_, value, ""); }

 private:
  using Lines = std::vector<std::string>;

  const Json& resolve(const Json& schema) const {
    if (!schema.contains("$ref")) return schema;
    return root_.at("$defs").at(schema.at("$ref").get<std::string>().substr(std::string("#/$defs/").size()));
  }

  static void append(Lines& all, Lines more) { all.insert(all.end(), more.begin(), more.end()); }

  Lines walk(const Json& unresolved, const Json& value, const std::string& path) const {
    const Json& schema = resolve(unresolved);
    Lines lines;
    for (const auto& [keyword, rule] : unresolved.items())
      if (unresolved.contains("$ref") && keyword != "$ref" && keyword != "description")
        lines.push_back(path + ": the walker reads no " + keyword + " beside $ref");
    for (const auto& [keyword, rule] : schema.items()) append(lines, judge(schema, keyword, rule, value, path));
    return lines;
  }

  Lines judge(const Json& schema, const std::string& keyword, const Json& rule, const Json& value,
              const std::string& path) const {
    static const std::set<std::string> kSilent = {"$schema", "$defs", "title", "description"};
    if (kSilent.contains(keyword)) return {};
    if (keyword == "type") return is_of_type(value, rule) ? Lines{} : Lines{path + ": is no " + rule.get<std::string>()};
    if (keyword == "const") return value == rule ? Lines{} : Lines{path + ": is not " + rule.dump()};
    if (keyword == "enum") return std::ranges::find(rule, value) != rule.end() ? Lines{} : Lines{path + ": not in the enum"};
    if (keyword == "minimum") return !value.is_number() || value >= rule ? Lines{} : Lines{path + ": below the minimum"};
    if (keyword == "anyOf") {
      const bool fits = std::ranges::any_of(rule, [&](const Json& one) { return walk(one, value, path).empty(); });
      return fits ? Lines{} : Lines{path + ": fits none of anyOf"};
    }
    if (keyword == "required") return missing(rule, value, path);
    if (keyword == "items") return each_item(rule, value, path);
    if (keyword == "properties") return each_property(rule, value, path);
    if (keyword == "additionalProperties") return each_other(schema, rule, value, path);
    return {path + ": the walker does not know " + keyword};
  }

  static Lines missing(const Json& names, const Json& value, const std::string& path) {
    Lines lines;
    for (const Json& name : names)
      if (value.is_object() && !value.contains(name.get<std::string>()))
        lines.push_back(path + ": lacks " + name.get<std::string>());
    return lines;
  }

  Lines each_item(const Json& rule, const Json& value, const std::string& path) const {
    Lines lines;
    for (std::size_t i = 0; value.is_array() && i < value.size(); ++i)
      append(lines, walk(rule, value[i], fmt::format("{}[{}]", path, i)));
    return lines;
  }

  Lines each_property(const Json& rules, const Json& value, const std::string& path) const {
    Lines lines;
    for (const auto& [name, rule] : rules.items())
      if (value.is_object() && value.contains(name)) append(lines, walk(rule, value[name], path + "/" + name));
    return lines;
  }

  Lines each_other(const Json& schema, const Json& rule, const Json& value, const std::string& path) const {
    Lines lines;
    for (const auto& [name, member] : value.items())
      if (!schema.contains("properties") || !schema["properties"].contains(name))
        append(lines, walk(rule, member, path + "/" + name));
    return lines;
  }

  Lines unnamed(const Json& unresolved, const Json& value, const std::string& path) const {
    const Json& schema = resolve(unresolved);
    Lines lines;
    if (value.is_array() && schema.contains("items"))
      for (const Json& item : value) append(lines, unnamed(schema["items"], item, path + "[]"));
    if (!value.is_object() || schema.contains("additionalProperties")) return lines;
    for (const auto& [name, member] : value.items()) {
      if (schema.contains("properties") && schema["properties"].contains(name))
        append(lines, unnamed(schema["properties"][name], member, path + "/" + name));
      else
        lines.push_back(path + "/" + name);
    }
    return lines;
  }

  Json root_;
};

// Paths of every value below `value`, as JSON pointers.
std::vector<Json::json_pointer> pointers_below(const Json& value, const Json::json_pointer& at) {
  std::vector<Json::json_pointer> all;
  for (const auto& [key, member] : value.items()) {
    const auto here = value.is_array() ? at / static_cast<std::size_t>(std::stoul(key)) : at / key;
    all.push_back(here);
    if (!member.is_structured()) continue;
    const auto below = pointers_below(member, here);
    all.insert(all.end(), below.begin(), below.end());
  }
  return all;
}

TEST(RunSchema, AcceptsARecordThatUsesEveryField) {
  EXPECT_EQ(Walker(load_schema()).errors(to_json(full_record())), std::vector<std::string>{});
}

TEST(RunSchema, AcceptsAnEmptyRun) { EXPECT_EQ(Walker(load_schema()).errors(to_json(RunRecord{})), std::vector<std::string>{}); }

TEST(RunSchema, NamesEveryKeyThatTheSerializerWrites) {
  EXPECT_EQ(Walker(load_schema()).unnamed_keys(to_json(full_record())), std::vector<std::string>{});
}

// Not there in a case that takes no steps, has one life, or no exact values; every other key is always there.
const std::set<std::string> kOptional = {"step", "life", "digests"};

TEST(RunSchema, RequiresEveryKeyThatItNamesButTheOptionalOnes) {
  const Json schema = load_schema();
  std::vector<Json> objects = {schema, schema["properties"]["summary"]};
  for (const auto& [name, definition] : schema["$defs"].items())
    if (definition.contains("properties")) objects.push_back(definition);
  EXPECT_EQ(objects.size(), 7U);
  for (const Json& object : objects) {
    std::set<std::string> named;
    for (const auto& [name, rule] : object["properties"].items())
      if (!kOptional.contains(name)) named.insert(name);
    EXPECT_EQ(object["required"].get<std::set<std::string>>(), named);
  }
}

TEST(RunSchema, RefusesARecordInWhichAnyKeyIsMissing) {
  const Walker walker(load_schema());
  const Json record = to_json(full_record());
  int num_removed = 0;
  for (const auto& pointer : pointers_below(record, Json::json_pointer())) {
    Json damaged = record;
    Json& parent = damaged[pointer.parent_pointer()];
    // A knob or a digest more or less is no matter of the schema.
    const std::string above = pointer.parent_pointer().to_string();
    const bool is_free = above.ends_with("/config") || above.ends_with("/digests");
    if (!parent.is_object() || is_free || kOptional.contains(pointer.back())) continue;
    parent.erase(pointer.back());
    EXPECT_FALSE(walker.errors(damaged).empty()) << pointer.to_string();
    ++num_removed;
  }
  EXPECT_GT(num_removed, 200);
}

TEST(RunSchema, RefusesARecordInWhichAnyValueHasAnotherType) {
  const Walker walker(load_schema());
  const Json record = to_json(full_record());
  for (const auto& pointer : pointers_below(record, Json::json_pointer())) {
    Json damaged = record;
    damaged[pointer] = damaged[pointer].is_array() ? Json(true) : Json::array({"wrong"});
    EXPECT_FALSE(walker.errors(damaged).empty()) << pointer.to_string();
  }
}

TEST(RunSchema, ListsTheVerdictsClassesAndStatesOfTheCode) {
  const Json schema = load_schema();
  std::vector<std::string> verdicts;
  for (const Verdict verdict : all_verdicts()) verdicts.emplace_back(verdict_name(verdict));
  EXPECT_EQ(schema["$defs"]["case"]["properties"]["verdict"]["enum"].get<std::vector<std::string>>(), verdicts);
  std::vector<std::string> classes;
  for (int i = 0; i <= static_cast<int>(FindingClass::kInconclusive); ++i)
    classes.emplace_back(class_name(static_cast<FindingClass>(i)));
  EXPECT_EQ(schema["$defs"]["finding"]["properties"]["class"]["enum"].get<std::vector<std::string>>(), classes);
  std::vector<std::string> states;
  for (int i = 0; i <= static_cast<int>(CheckState::kNotApplicable); ++i)
    states.emplace_back(check_state_name(static_cast<CheckState>(i)));
  EXPECT_EQ(schema["$defs"]["check"]["properties"]["state"]["enum"].get<std::vector<std::string>>(), states);
}

}  // namespace
}  // namespace moecheck::record
