#include "harness/scenario/expand.h"

#include <algorithm>
#include <map>
#include <set>

#include <fmt/format.h>

#include "harness/cases/fields.h"

namespace moecheck::scenario {
namespace {

using base::Error;
using base::ErrorCode;
using base::Result;
using base::Status;
using cases::Case;
using cases::FamilyLoader;
using cases::Field;
using cases::KnobValues;

// A case to be, and where each of its knobs stands.
struct Combination {
  KnobValues knobs;
  std::map<std::string, Spot, std::less<>> spots;
  Spot whole;  // for what no knob in the file is to blame

  void take(const std::string& knob, const std::string& text, const Spot& spot) {
    knobs[knob] = text;
    spots[knob] = spot;
  }
};

Combination base_of(const Scenario& scenario) {
  Combination base;
  base.whole = scenario.model_spot;
  for (const KnobSetting& knob : scenario.base) base.take(knob.knob, knob.text, knob.spot);
  return base;
}

Result<std::vector<Combination>> product(const Scenario& scenario) {
  if (!scenario.has_matrix && !scenario.include.empty()) return std::vector<Combination>{};
  std::vector<Combination> all = {base_of(scenario)};
  for (const MatrixAxis& axis : scenario.matrix) {
    if (all.size() * axis.values.size() > kMaxCasesOfAScenario)
      return scenario.source.error_at(
          axis.spot, fmt::format("the matrix has more than {} cases; split the scenario", kMaxCasesOfAScenario));
    std::vector<Combination> next;
    next.reserve(all.size() * axis.values.size());
    for (const Combination& one : all) {
      for (const AxisValue& value : axis.values) {
        next.push_back(one);
        next.back().take(axis.knob, value.text, value.spot);
      }
    }
    all = std::move(next);
  }
  return all;
}

// The canonical value that `one` has for `field`, also where the whole makes no sense: that may be why it is excluded.
std::string value_in(const Combination& one, const Field& field, const FamilyLoader& load_family) {
  if (const auto given = one.knobs.find(field.name); given != one.knobs.end()) return given->second;
  if (!field.default_text.empty()) return std::string(field.default_text);
  const auto model = one.knobs.find("model");
  if (field.yaml_place != "override" || model == one.knobs.end()) return "";
  Case plain;
  if (auto family = load_family(model->second)) plain.problem.model = *family;
  return field.get(plain);
}

bool is_matched(const KnobGroup& group, const Combination& one, const FamilyLoader& load_family) {
  return std::ranges::all_of(group.knobs, [&](const KnobSetting& knob) {
    return value_in(one, *cases::find_field(knob.knob), load_family) == knob.text;
  });
}

Status remove_excluded(const Scenario& scenario, std::vector<Combination>& all, const FamilyLoader& load_family) {
  std::vector<bool> is_excluded(all.size(), false);
  // All entries are matched against the whole product: one that only repeats another is not stale.
  for (const KnobGroup& entry : scenario.exclude) {
    bool has_match = false;
    for (std::size_t i = 0; i < all.size(); ++i) {
      if (!is_matched(entry, all[i], load_family)) continue;
      has_match = true;
      is_excluded[i] = true;
    }
    if (!has_match)
      return scenario.source.error_at(entry.spot, "this entry of exclude matches no case of the matrix; remove or correct it");
  }
  std::size_t i = 0;
  std::erase_if(all, [&](const Combination&) { return is_excluded[i++]; });
  return base::Ok{};
}

void add_included(const Scenario& scenario, std::vector<Combination>& all) {
  for (const KnobGroup& entry : scenario.include) {
    Combination one = base_of(scenario);
    one.whole = entry.spot;
    for (const KnobSetting& knob : entry.knobs) one.take(knob.knob, knob.text, knob.spot);
    all.push_back(std::move(one));
  }
}

// make_case names the knob to blame in Error::where.
Error located(const Error& error, const Scenario& scenario, const Combination& one, const KnobValues& set_overrides) {
  if (set_overrides.contains(error.where)) return {error.code, error.message, "--set " + error.where};
  const auto spot = one.spots.find(error.where);
  Error placed = scenario.source.error_at(spot == one.spots.end() ? one.whole : spot->second, error.message);
  placed.code = error.code;
  return placed;
}

// The reason of the first entry that matches; marks every entry that does.
std::string xfail_reason(const Scenario& scenario, const Combination& one, const FamilyLoader& load_family,
                         std::vector<bool>& is_used) {
  std::string reason;
  for (std::size_t i = 0; i < scenario.xfail.size(); ++i) {
    if (!is_matched(scenario.xfail[i].when, one, load_family)) continue;
    is_used[i] = true;
    if (reason.empty()) reason = scenario.xfail[i].reason;
  }
  return reason;
}

Status check_set(const KnobValues& set_overrides) {
  for (const auto& [knob, text] : set_overrides) {
    const Field* field = cases::find_field(knob);
    if (field == nullptr) continue;  // make_case says so, with a did-you-mean
    if (auto canonical = cases::canonical_text(*field, text); !canonical)
      return Error{ErrorCode::kUsage, fmt::format("{}: {}", knob, canonical.error().message), "--set " + knob};
  }
  return base::Ok{};
}

Result<std::vector<Case>> made_cases(const Scenario& scenario, const std::vector<Combination>& all, const KnobValues& set_overrides,
                                     const FamilyLoader& load_family) {
  std::vector<Case> made;
  std::set<std::string> ids;
  std::vector<bool> is_xfail_used(scenario.xfail.size(), false);
  for (Combination one : all) {
    for (const auto& [knob, text] : set_overrides) {
      const Field* field = cases::find_field(knob);
      one.knobs[knob] = field == nullptr ? text : cases::canonical_text(*field, text).value();
    }
    auto made_one = cases::make_case(one.knobs, load_family);
    if (!made_one) return located(made_one.error(), scenario, one, set_overrides);
    const std::string id = cases::case_id(*made_one, load_family);
    if (!ids.insert(id).second) {
      if (!set_overrides.empty()) continue;
      return scenario.source.error_at(one.whole, fmt::format("the scenario has this case twice: {}", id));
    }
    made_one->scenario = scenario.name;
    made_one->tags = scenario.tags;
    made_one->xfail_reason = xfail_reason(scenario, one, load_family, is_xfail_used);
    made.push_back(std::move(*made_one));
  }
  for (std::size_t i = 0; i < scenario.xfail.size() && set_overrides.empty(); ++i)
    if (!is_xfail_used[i])
      return scenario.source.error_at(scenario.xfail[i].when.spot, "this entry of xfail matches no case; remove or correct it");
  return made;
}

}  // namespace

Result<std::vector<Case>> expand(const Scenario& scenario, const KnobValues& set_overrides, const FamilyLoader& load_family) {
  if (auto set = check_set(set_overrides); !set) return set.error();
  auto all = product(scenario);
  if (!all) return all.error();
  if (auto removed = remove_excluded(scenario, *all, load_family); !removed) return removed.error();
  add_included(scenario, *all);
  if (all->empty()) return scenario.source.error_at({}, "the scenario has no case: exclude removes all and include adds none");
  return made_cases(scenario, *all, set_overrides, load_family);
}

}  // namespace moecheck::scenario
