#include "harness/scenario/combination.h"

#include <algorithm>

#include "harness/base/require.h"
#include "harness/cases/fields.h"

namespace moecheck::scenario {
namespace {

// The canonical value that `one` has for `field`; empty if only a family could say and there is none.
std::string value_in(const Combination& one, const cases::Field& field, const cases::FamilyLoader& load_family) {
  if (const auto given = one.knobs.find(field.name); given != one.knobs.end()) return given->second;
  if (!field.default_text.empty()) return std::string(field.default_text);
  const auto model = one.knobs.find("model");
  if (field.yaml_place != "override" || model == one.knobs.end()) return "";
  cases::Case plain;
  if (auto family = load_family(model->second)) plain.problem.model = *family;
  return field.get(plain);
}

}  // namespace

void Combination::take(const KnobSetting& knob) {
  knobs[knob.knob] = knob.text;
  spots[knob.knob] = knob.spot;
}

Combination base_of(const Scenario& scenario) {
  Combination base;
  base.whole = scenario.model_spot;
  for (const KnobSetting& knob : scenario.base) base.take(knob);
  return base;
}

Combination combination_of(const Scenario& scenario, const ValueIds& value_ids) {
  MOECHECK_REQUIRE(value_ids.size() == scenario.matrix.size());
  Combination one = base_of(scenario);
  for (std::size_t axis = 0; axis < value_ids.size(); ++axis)
    for (const KnobSetting& knob : scenario.matrix[axis].values.at(value_ids[axis]).knobs) one.take(knob);
  return one;
}

bool is_matched(const KnobGroup& group, const Combination& one, const cases::FamilyLoader& load_family) {
  return std::ranges::all_of(group.knobs, [&](const KnobSetting& knob) {
    return value_in(one, *cases::find_field(knob.knob), load_family) == knob.text;
  });
}

base::Error located(const base::Error& error, const Scenario& scenario, const Combination& one, const cases::KnobValues& set_overrides) {
  if (set_overrides.contains(error.where)) return {error.code, error.message, "--set " + error.where};
  const auto spot = one.spots.find(error.where);
  base::Error placed = scenario.source.error_at(spot == one.spots.end() ? one.whole : spot->second, error.message);
  placed.code = error.code;
  return placed;
}

}  // namespace moecheck::scenario
