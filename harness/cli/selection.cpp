#include "harness/cli/selection.h"

#include <algorithm>
#include <charconv>
#include <set>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "harness/base/nearest_name.h"
#include "harness/cases/fields.h"
#include "harness/check/registry.h"
#include "harness/cli/filter.h"
#include "harness/cli/places.h"
#include "harness/record/run_record.h"
#include "harness/scenario/load.h"
#include "harness/scenario/suite.h"

namespace moecheck::cli {
namespace {

using base::Error;
using base::ErrorCode;
using driver::IdentifiedCase;

base::Result<cases::KnobValues> parse_sets(const std::vector<std::string>& sets) {
  cases::KnobValues knobs;
  for (const std::string& set : sets) {
    const auto equals = set.find('=');
    const std::string name = set.substr(0, equals);
    const cases::Field* field = cases::find_field(name);
    if (equals == std::string::npos || field == nullptr)
      return Error{ErrorCode::kUsage, fmt::format("'{}' is not knob=value{}", set, base::suggestion(name, cases::field_names())), "--set"};
    auto value = cases::canonical_text(*field, set.substr(equals + 1));
    if (!value) return Error{ErrorCode::kUsage, fmt::format("{}: {}", name, value.error().message), "--set"};
    knobs[name] = *value;
  }
  return knobs;
}

bool looks_like_id(const std::string& target) { return target.find('=') != std::string::npos && target.find(".yaml") == std::string::npos; }

base::Result<cases::Case> case_from_id(const std::string& id, const cases::KnobValues& sets, const cases::FamilyLoader& load_family) {
  auto knobs = cases::parse_case_id(id);
  if (!knobs) return Error{ErrorCode::kUsage, knobs.error().message, "--case"};
  for (const auto& [knob, value] : sets) (*knobs)[knob] = value;
  auto one = cases::make_case(*knobs, load_family);
  if (!one) return Error{one.error().code, one.error().message, "--case"};
  one->scenario = "command line";
  return one;
}

base::Result<std::vector<IdentifiedCase>> load_all(const SelectionOptions& options, const std::filesystem::path& scenarios,
                                                   const cases::KnobValues& sets, const cases::FamilyLoader& load_family) {
  std::vector<IdentifiedCase> all;
  std::set<std::string> seen;
  const auto add = [&](cases::Case one) {
    std::string id = cases::case_id(one, load_family);
    if (seen.insert(id).second) all.push_back({std::move(one), std::move(id)});
  };
  std::vector<std::string> ids = options.case_ids;
  for (const std::string& target : options.targets) {
    if (looks_like_id(target)) {
      ids.push_back(target);
      continue;
    }
    auto loaded = scenario::load_cases(target, sets, scenarios, load_family);
    if (!loaded) return loaded.error();
    for (cases::Case& one : *loaded) add(std::move(one));
  }
  for (const std::string& id : ids) {
    auto one = case_from_id(id, sets, load_family);
    if (!one) return one.error();
    add(*std::move(one));
  }
  return all;
}

base::Result<std::pair<std::size_t, std::size_t>> parse_shard(const std::string& text) {
  std::size_t i = 0, n = 0;
  const auto slash = text.find('/');
  const auto is_number = [](const char* first, const char* last, std::size_t& number) {
    const auto [end, code] = std::from_chars(first, last, number);
    return code == std::errc{} && end == last;
  };
  const char* const begin = text.data();
  const bool is_ok = slash != std::string::npos && is_number(begin, begin + slash, i) && is_number(begin + slash + 1, begin + text.size(), n);
  if (!is_ok || i < 1 || i > n) return Error{ErrorCode::kUsage, fmt::format("'{}' is not i/n with 1 <= i <= n", text), "--shard"};
  return std::pair(i, n);
}

base::Status keep_last_failed(std::vector<IdentifiedCase>& cases) {
  auto last = driver::read_run(latest_run());
  if (!last) return Error{ErrorCode::kUsage, "there is no last run to take the failed cases from: " + last.error().text(), "--lf"};
  std::set<std::string> failed;
  for (const record::CaseRecord& one : last->cases)
    if (record::is_failure(one.verdict)) failed.insert(one.id);
  std::erase_if(cases, [&](const IdentifiedCase& one) { return !failed.contains(one.id); });
  return base::Ok{};
}

// A typo in a scenario is a mistake of the user, not a case that could not be judged.
base::Status know_checks(const std::vector<IdentifiedCase>& cases) {
  std::vector<std::string> known = {"all"};
  for (const check::Check& one : check::checks()) known.emplace_back(one.name);
  for (const IdentifiedCase& one : cases)
    for (const std::string& name : one.one.checks)
      if (std::ranges::find(known, name) == known.end())
        return Error{ErrorCode::kUsage, fmt::format("unknown check '{}'{}", name, base::suggestion(name, known)), one.one.scenario};
  return base::Ok{};
}

std::string searchable(const IdentifiedCase& one) { return fmt::format("{} {} {}", one.id, one.one.scenario, fmt::join(one.one.tags, " ")); }

}  // namespace

base::Result<Selection> select_cases(const SelectionOptions& options) {
  auto scenarios = scenarios_dir();
  if (!scenarios) return scenarios.error();
  auto sets = parse_sets(options.sets);
  if (!sets) return sets.error();
  Selection selection{{}, scenario::family_loader(*scenarios / "models")};
  auto all = load_all(options, *scenarios, *sets, selection.load_family);
  if (!all) return all.error();
  selection.cases = *std::move(all);
  if (auto known = know_checks(selection.cases); !known) return known.error();
  for (const std::string& tag : options.tags)
    std::erase_if(selection.cases, [&](const IdentifiedCase& one) { return std::ranges::find(one.one.tags, tag) == one.one.tags.end(); });
  if (!options.expression.empty()) {
    auto filter = Filter::parse(options.expression);
    if (!filter) return filter.error();
    std::erase_if(selection.cases, [&](const IdentifiedCase& one) { return !filter->matches(searchable(one)); });
  }
  if (options.is_last_failed)
    if (auto kept = keep_last_failed(selection.cases); !kept) return kept.error();
  if (!options.shard.empty()) {
    auto shard = parse_shard(options.shard);
    if (!shard) return shard.error();
    std::size_t index = 0;
    std::erase_if(selection.cases, [&](const IdentifiedCase&) { return index++ % shard->second != shard->first - 1; });
  }
  return selection;
}

}  // namespace moecheck::cli
