#include "harness/record/finding.h"

#include <array>

#include "harness/record/json_numbers.h"

namespace moecheck::record {
namespace {

using base::Json;

constexpr std::array<std::pair<FindingClass, std::string_view>, 5> kClasses = {{
    {FindingClass::kBug, "bug"},
    {FindingClass::kContract, "contract"},
    {FindingClass::kBenignFlip, "benign_flip"},
    {FindingClass::kNoise, "noise"},
    {FindingClass::kInconclusive, "inconclusive"},
}};

Json optional_json(const std::optional<std::int64_t>& value) { return value ? Json(*value) : Json(nullptr); }
Json optional_json(const std::optional<double>& value) { return value ? number_json(*value) : Json(nullptr); }

std::optional<std::int64_t> optional_int(const Json& json, const char* key) {
  if (!json.contains(key) || json[key].is_null()) return std::nullopt;
  return json[key].get<std::int64_t>();
}

std::optional<double> optional_number(const Json& json, const char* key) {
  if (!json.contains(key) || json[key].is_null()) return std::nullopt;
  return number_from_json(json[key]);
}

}  // namespace

std::string_view class_name(FindingClass cls) { return kClasses[static_cast<std::size_t>(cls)].second; }

bool is_failure(const Finding& finding) { return finding.cls == FindingClass::kBug || finding.cls == FindingClass::kContract; }

Json to_json(const Finding& f) {
  Json json = {{"check", f.check},
               {"class", class_name(f.cls)},
               {"stage", f.stage},
               {"tensor", f.tensor},
               {"rank", optional_json(f.rank)},
               {"expert", optional_json(f.expert)},
               {"token", optional_json(f.token)},
               {"slot", optional_json(f.slot)},
               {"want", optional_json(f.want)},
               {"got", optional_json(f.got)},
               {"measured", optional_json(f.measured)},
               {"bound", optional_json(f.bound)},
               {"used", optional_json(f.used)},
               {"compared", f.compared},
               {"message", f.message},
               {"hypothesis", f.hypothesis}};
  if (!f.life.empty()) json["life"] = f.life;
  if (f.step) json["step"] = *f.step;
  return json;
}

Finding finding_from_json(const Json& json) {
  Finding f;
  f.check = json.at("check").get<std::string>();
  const auto cls = json.at("class").get<std::string>();
  f.cls = FindingClass::kInconclusive;
  for (const auto& [value, name] : kClasses)
    if (name == cls) f.cls = value;
  f.stage = json.value("stage", "");
  f.tensor = json.value("tensor", "");
  f.life = json.value("life", "");
  f.step = optional_int(json, "step");
  f.rank = optional_int(json, "rank");
  f.expert = optional_int(json, "expert");
  f.token = optional_int(json, "token");
  f.slot = optional_int(json, "slot");
  f.want = optional_number(json, "want");
  f.got = optional_number(json, "got");
  f.measured = optional_number(json, "measured");
  f.bound = optional_number(json, "bound");
  f.used = optional_number(json, "used");
  f.compared = json.value("compared", std::int64_t{0});
  f.message = json.value("message", "");
  f.hypothesis = json.value("hypothesis", "");
  return f;
}

}  // namespace moecheck::record
