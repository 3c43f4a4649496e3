#include "harness/scenario/expand.h"

#include <set>

#include <fmt/format.h>

#include "harness/cases/fields.h"
#include "harness/scenario/choice.h"
#include "harness/scenario/combination.h"

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

void add_included(const Scenario& scenario, std::vector<Combination>& all) {
  for (const KnobGroup& entry : scenario.include) {
    Combination one = base_of(scenario);
    one.whole = entry.spot;
    for (const KnobSetting& knob : entry.knobs) one.take(knob);
    all.push_back(std::move(one));
  }
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

Result<std::vector<Case>> made_cases(const Scenario& scenario, const Choice& choice, const KnobValues& set_overrides,
                                     const FamilyLoader& load_family) {
  std::vector<Case> made;
  std::set<std::string> ids;
  // An entry for a candidate that cover passed over is not stale: nobody picks what cover takes.
  std::vector<bool> is_xfail_used = choice.is_xfail_matched;
  for (Combination one : choice.chosen) {
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
  auto choice = choose(scenario, set_overrides, load_family);
  if (!choice) return choice.error();
  add_included(scenario, choice->chosen);
  if (choice->chosen.empty()) return scenario.source.error_at({}, "the scenario has no case: exclude removes all and include adds none");
  return made_cases(scenario, *choice, set_overrides, load_family);
}

}  // namespace moecheck::scenario
