#include "harness/scenario/choice.h"

#include <map>
#include <memory>
#include <optional>

#include <fmt/format.h>

#include "harness/cases/fields.h"
#include "harness/scenario/covering.h"
#include "harness/scenario/expand.h"

namespace moecheck::scenario {
namespace {

using base::Error;
using base::Result;
using base::Status;
using cases::FamilyLoader;
using cases::KnobValues;

std::vector<std::size_t> num_values_A(const Scenario& scenario) {
  std::vector<std::size_t> num_values;
  for (const MatrixAxis& axis : scenario.matrix) num_values.push_back(axis.values.size());
  return num_values;
}

// Errors: at the axis with which the product gets too large.
Result<std::size_t> product_size(const Scenario& scenario) {
  const std::size_t limit = scenario.cover ? kMaxCandidatesOfACover : kMaxCasesOfAScenario;
  std::size_t size = 1;
  for (const MatrixAxis& axis : scenario.matrix) {
    size *= axis.values.size();
    if (size > limit)
      return scenario.source.error_at(
          axis.spot, fmt::format("the matrix has more than {} {}; split the scenario", limit, scenario.cover ? "combinations" : "cases"));
  }
  return size;
}

// Combination `number` of the product, last axis fastest.
ValueIds value_ids_of(std::size_t number, const std::vector<std::size_t>& num_values) {
  ValueIds value_ids(num_values.size());
  for (std::size_t axis = num_values.size(); axis-- > 0; number /= num_values[axis])
    value_ids[axis] = static_cast<std::uint32_t>(number % num_values[axis]);
  return value_ids;
}

// The entries of exclude, and which of them matched something.
class Exclusion {
 public:
  Exclusion(const Scenario& scenario, const FamilyLoader& load_family)
      : scenario_(scenario), load_family_(load_family), has_match_(scenario.exclude.size(), false) {}

  // All entries are matched against the whole product: one that only repeats another is not stale.
  bool removes(const Combination& one) {
    bool is_removed = false;
    for (std::size_t i = 0; i < has_match_.size(); ++i) {
      if (!is_matched(scenario_.exclude[i], one, load_family_)) continue;
      has_match_[i] = true;
      is_removed = true;
    }
    return is_removed;
  }

  Status check_used() const {
    for (std::size_t i = 0; i < has_match_.size(); ++i)
      if (!has_match_[i])
        return scenario_.source.error_at(scenario_.exclude[i].spot,
                                         "this entry of exclude matches no case of the matrix; remove or correct it");
    return base::Ok{};
  }

 private:
  const Scenario& scenario_;
  const FamilyLoader& load_family_;
  std::vector<bool> has_match_;
};

// Asks once for each family, also for one that fails: thousands of combinations may name it.
FamilyLoader asking_once(const FamilyLoader& load_family) {
  auto known = std::make_shared<std::map<std::string, Result<model::ModelSpec>, std::less<>>>();
  return [known, &load_family](std::string_view family) -> Result<model::ModelSpec> {
    auto found = known->find(family);
    if (found == known->end()) found = known->emplace(family, load_family(family)).first;
    return found->second;
  };
}

// What became of the combinations with one value of an axis, less the excluded ones.
struct ValueUse {
  bool has_valid = false;
  std::optional<ValueIds> refused;  // the first that makes no sense
};

// What cover chooses among: the combinations that make sense, found one by one.
class Candidates {
 public:
  Candidates(const Scenario& scenario, const KnobValues& set_overrides, const FamilyLoader& load_family)
      : scenario_(scenario), load_family_(load_family), is_xfail_matched_(scenario.xfail.size(), false) {
    for (const MatrixAxis& axis : scenario.matrix) uses_.emplace_back(axis.values.size());
    for (const cases::Field& field : cases::fields()) {
      const auto set = set_overrides.find(field.name);
      const bool is_required = field.default_text.empty() && field.yaml_place.empty();
      if (is_required && set != set_overrides.end()) required_.insert(*set);
    }
  }

  // Errors: of the outside world only; a combination that makes no sense is no candidate.
  Status consider(const Combination& one, const ValueIds& value_ids) {
    const auto valid = made(one);
    if (!valid && valid.error().code != base::ErrorCode::kUsage) return located(valid.error(), scenario_, one, missing(one));
    for (std::size_t axis = 0; axis < value_ids.size(); ++axis) {
      ValueUse& use = uses_[axis][value_ids[axis]];
      if (valid) use.has_valid = true;
      else if (!use.refused) use.refused = value_ids;
    }
    if (!valid) return base::Ok{};
    for (std::size_t i = 0; i < is_xfail_matched_.size(); ++i)
      is_xfail_matched_[i] = is_xfail_matched_[i] || is_matched(scenario_.xfail[i].when, one, load_family_);
    rows_.push_back(value_ids);
    return base::Ok{};
  }

  // Errors: a value that only combinations without sense have; the first such combination's own error if no other has sense either.
  Status check_values() const {
    for (std::size_t axis = 0; axis < uses_.size(); ++axis) {
      for (std::size_t value_id = 0; value_id < uses_[axis].size(); ++value_id) {
        const ValueUse& use = uses_[axis][value_id];
        if (use.has_valid || !use.refused) continue;
        const Combination refused = combination_of(scenario_, *use.refused);
        const Error why = made(refused).error();
        if (rows_.empty()) return located(why, scenario_, refused, missing(refused));
        const MatrixAxis& of = scenario_.matrix[axis];
        return scenario_.source.error_at(
            of.values[value_id].spot,
            fmt::format("this value of {} makes no sense with any others of the matrix; with the first ones: {}", of.name, why.message));
      }
    }
    return base::Ok{};
  }

  const std::vector<ValueIds>& rows() const { return rows_; }
  const std::vector<bool>& is_xfail_matched() const { return is_xfail_matched_; }

 private:
  // The required knobs that `one` lacks and the command line has.
  KnobValues missing(const Combination& one) const {
    KnobValues missing = required_;
    std::erase_if(missing, [&](const auto& knob) { return one.knobs.contains(knob.first); });
    return missing;
  }

  Result<cases::Case> made(const Combination& one) const {
    if (required_.empty()) return cases::make_case(one.knobs, load_family_);
    KnobValues knobs = one.knobs;
    knobs.merge(missing(one));
    return cases::make_case(knobs, load_family_);
  }

  const Scenario& scenario_;
  const FamilyLoader& load_family_;
  KnobValues required_;
  std::vector<std::vector<ValueUse>> uses_;  // [axis][value]
  std::vector<ValueIds> rows_;
  std::vector<bool> is_xfail_matched_;
};

}  // namespace

Result<Choice> choose(const Scenario& scenario, const KnobValues& set_overrides, const FamilyLoader& load_family) {
  Choice choice;
  choice.is_xfail_matched.assign(scenario.xfail.size(), false);
  if (!scenario.has_matrix && !scenario.include.empty()) return choice;
  const auto size = product_size(scenario);
  if (!size) return size.error();
  const auto num_values = num_values_A(scenario);
  const FamilyLoader load_once = asking_once(load_family);
  Exclusion exclusion(scenario, load_once);
  Candidates candidates(scenario, set_overrides, load_once);
  for (std::size_t number = 0; number < *size; ++number) {
    const ValueIds value_ids = value_ids_of(number, num_values);
    Combination one = combination_of(scenario, value_ids);
    if (exclusion.removes(one)) continue;
    if (!scenario.cover) choice.chosen.push_back(std::move(one));
    else if (auto considered = candidates.consider(one, value_ids); !considered) return considered.error();
  }
  if (auto used = exclusion.check_used(); !used) return used.error();
  if (!scenario.cover) return choice;
  if (auto values = candidates.check_values(); !values) return values.error();
  const auto rows = covering_rows(num_values, candidates.rows(), scenario.cover->strength);
  if (rows.size() > kMaxCasesOfAScenario)
    return scenario.source.error_at(scenario.cover->spot, fmt::format("cover: {} takes {} cases, more than {}; split the scenario",
                                                                      scenario.cover->strength, rows.size(), kMaxCasesOfAScenario));
  for (const std::size_t row : rows) choice.chosen.push_back(combination_of(scenario, candidates.rows()[row]));
  choice.is_xfail_matched = candidates.is_xfail_matched();
  return choice;
}

}  // namespace moecheck::scenario
