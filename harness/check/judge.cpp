#include "harness/check/judge.h"

#include <algorithm>
#include <set>
#include <tuple>

#include <fmt/format.h>

#include "harness/base/nearest_name.h"
#include "harness/check/layout.h"
#include "harness/trace/tap_points.h"

namespace moecheck::check {
namespace {

using record::CaseRecord;
using record::CheckState;
using record::Finding;
using record::Verdict;

base::Result<std::vector<const Check*>> chosen_checks(const cases::Case& one) {
  std::vector<const Check*> chosen;
  std::vector<std::string> known = {"all"};
  for (const Check& check : checks()) known.emplace_back(check.name);
  for (const std::string& name : one.checks)
    if (std::ranges::find(known, name) == known.end())
      return base::Error{base::ErrorCode::kUsage, fmt::format("unknown check '{}'{}", name, base::suggestion(name, known)), "checks"};
  const bool is_all = std::ranges::find(one.checks, "all") != one.checks.end();
  for (const Check& check : checks())
    if (is_all || std::ranges::find(one.checks, check.name) != one.checks.end()) chosen.push_back(&check);
  return chosen;
}

// Where a stage or phase stands: taps by their place in the table; a failed load after the parameters, another failed phase
// after all taps, since nobody knows at which one it broke off.
std::size_t stage_position(const std::string& stage) {
  const std::size_t num_taps = trace::tap_points().size();
  if (stage == "load") return 2 * trace::stage_index("input/x_TD") - 1;
  const std::size_t index = trace::stage_index(stage);
  return index < num_taps ? 2 * index : 2 * num_taps;
}

auto place_of(const Finding& finding) { return std::tuple(stage_position(finding.stage), finding.rank.value_or(-1)); }

// A tap that one rank lacks is a finding of every check that needs it: one is enough. The checks keep their states.
void drop_repeated(std::vector<Finding>& findings) {
  std::set<std::tuple<std::string, std::int64_t, std::string>> seen;
  std::erase_if(findings, [&](const Finding& f) { return !seen.insert({f.stage, f.rank.value_or(-1), f.message}).second; });
}

void merge_experts(const std::vector<record::ExpertCell>& from, CaseRecord& into) {
  for (const record::ExpertCell& cell : from) {
    const auto is_same = [&](const record::ExpertCell& c) { return c.rank == cell.rank && c.expert == cell.expert; };
    const auto same = std::ranges::find_if(into.experts, is_same);
    if (same == into.experts.end()) {
      into.experts.push_back(cell);
      continue;
    }
    same->is_local = same->is_local || cell.is_local;
    same->tokens += cell.tokens;
    same->wrong_rows += cell.wrong_rows;
    if (same->holds.empty()) same->holds = cell.holds;
  }
}

std::string place_text(const Finding& finding) {
  std::string text = finding.stage;
  if (finding.rank) text += fmt::format(", rank {}", *finding.rank);
  if (finding.expert) text += fmt::format(", expert {}", *finding.expert);
  if (finding.token) text += fmt::format(", token {}", *finding.token);
  return text;
}

std::string names_in_state(const CaseRecord& one, CheckState state) {
  std::string names;
  for (const record::CheckResult& check : one.checks)
    if (check.state == state)
      names += fmt::format("{}{}{}", names.empty() ? "" : "; ", check.name, check.note.empty() ? "" : ": " + check.note);
  return names;
}

void give_verdict(CaseRecord& one) {
  const auto is_vacuous = [](const record::CheckResult& c) { return c.state == CheckState::kVacuous; };
  const auto is_open = [](const Finding& f) { return f.cls == record::FindingClass::kInconclusive; };
  // Finishing is not being right, and neither is a name: a case in which no tensor was looked at does not pass, unless only
  // the subject's own word was asked for.
  const auto is_word = [](const record::CheckResult& c) { return c.name == "phase_completion" || c.name == "path_taken"; };
  const auto looked = [&](const record::CheckResult& c) { return c.state == CheckState::kPass && !is_word(c); };
  const bool was_word_asked = !one.checks.empty() && std::ranges::all_of(one.checks, is_word);
  if (std::ranges::any_of(one.findings, [](const Finding& f) { return record::is_failure(f); })) {
    one.verdict = Verdict::kFail;
  } else if (std::ranges::any_of(one.checks, is_vacuous)) {
    one.verdict = Verdict::kVacuous;
    one.reason = names_in_state(one, CheckState::kVacuous);
  } else if (std::ranges::any_of(one.findings, is_open)) {
    one.verdict = Verdict::kInconclusive;
    one.reason = "a check cannot tell noise from a bug";
  } else if (!was_word_asked && !std::ranges::any_of(one.checks, looked)) {
    one.verdict = Verdict::kVacuous;
    one.reason = "no check found anything to look at";
  } else {
    one.verdict = Verdict::kPass;
  }
}

}  // namespace

base::Result<CaseRecord> judge(const CheckInput& input) {
  auto chosen = chosen_checks(input.one);
  if (!chosen) return chosen.error();
  CaseRecord one;
  for (const Check* check : *chosen) {
    CheckOutcome outcome = check->run(input);
    one.checks.push_back({std::string(check->name), outcome.state, outcome.compared, outcome.note});
    std::ranges::move(outcome.findings, std::back_inserter(one.findings));
    std::ranges::move(outcome.stages, std::back_inserter(one.stages));
    merge_experts(outcome.experts, one);
  }
  const auto order = [](const Finding& f) { return std::tuple_cat(std::tuple(!record::is_failure(f)), place_of(f)); };
  std::ranges::stable_sort(one.findings, {}, order);
  drop_repeated(one.findings);
  std::ranges::sort(one.experts, {}, [](const record::ExpertCell& c) { return std::tuple(c.expert, c.rank); });
  if (!one.findings.empty() && record::is_failure(one.findings.front())) one.first_diverging = place_text(one.findings.front());
  give_verdict(one);
  return one;
}

}  // namespace moecheck::check
