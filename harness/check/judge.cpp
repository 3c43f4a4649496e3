#include "harness/check/judge.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <set>
#include <string_view>
#include <tuple>

#include <fmt/format.h>

#include "harness/base/nearest_name.h"
#include "harness/trace/tap_points.h"

namespace moecheck::check {
namespace {

using record::CaseRecord;
using record::CheckState;
using record::Finding;
using record::Verdict;

constexpr std::string_view kPhases = "phase_completion";

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

// Failures first; among them batch by batch, since what went wrong before spoils what follows; in a stage what is said of a rank
// before what is said of all. Ranks whose phases failed stay in the order of their check: the cause first, whatever its rank.
struct Placed {
  Finding finding;
  Dim batch = 0;
  std::size_t life = 0;
  bool is_of_batch = true;   // else it was found by looking across lives

  auto order() const {
    const std::int64_t rank = finding.rank.value_or(std::numeric_limits<std::int64_t>::max());
    return std::tuple(!record::is_failure(finding), life, batch, stage_position(finding.stage), finding.check == kPhases ? -1 : rank);
  }
};

// A tap that one rank lacks is a finding of every check that needs it, and of every batch: one is enough, the earliest. The checks
// keep their states. What a check across lives says of one life it may have to say of another too.
void drop_repeated(std::vector<Placed>& placed) {
  std::set<std::tuple<std::string, std::int64_t, std::string, std::string>> seen;
  std::erase_if(placed, [&](const Placed& p) {
    return !seen.insert({p.finding.stage, p.finding.rank.value_or(-1), p.finding.message, p.finding.life}).second;
  });
}

void name_step(const cases::Case& one, Placed& placed) {
  if (!one.has_phase("step") || !placed.is_of_batch) return;
  placed.finding.step = one.step_of(placed.batch) + 1;
  if (one.training.microbatches > 1)
    placed.finding.message += fmt::format(" (microbatch {})", placed.batch % one.training.microbatches + 1);
}

// What the checks of all batches said, so far.
struct Merged {
  CaseRecord record;
  std::vector<Placed> findings;
};

// Fail speaks loudest, a check that did not apply not at all.
int loudness(CheckState state) {
  constexpr std::array kOrder = {CheckState::kNotApplicable, CheckState::kUnobserved, CheckState::kPass, CheckState::kVacuous, CheckState::kFail};
  return static_cast<int>(std::ranges::find(kOrder, state) - kOrder.begin());
}

void merge_result(const CheckOutcome& from, record::CheckResult& into) {
  const bool is_applicable = from.state != CheckState::kNotApplicable;
  if (is_applicable && into.state == CheckState::kNotApplicable) into.note.clear();
  if ((is_applicable || into.state == CheckState::kNotApplicable) && into.note.find(from.note) == std::string::npos)
    into.note += fmt::format("{}{}", into.note.empty() ? "" : "; ", from.note);
  if (loudness(from.state) > loudness(into.state)) into.state = from.state;
  into.compared += from.compared;
}

// NaN is worse than every number.
void merge_stages(const std::vector<record::StageCell>& from, CaseRecord& into) {
  for (const record::StageCell& cell : from) {
    const auto is_same = [&](const record::StageCell& c) { return c.rank == cell.rank && c.stage == cell.stage; };
    const auto same = std::ranges::find_if(into.stages, is_same);
    if (same == into.stages.end()) {
      into.stages.push_back(cell);
      continue;
    }
    const std::int64_t compared = same->compared + cell.compared;
    const bool is_worse = cell.used > same->used || (cell.used == same->used && cell.measured > same->measured);
    if (std::isnan(cell.used) || is_worse) *same = cell;
    same->compared = compared;
  }
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
  if (finding.step) text += fmt::format(", step {}", *finding.step);
  if (!finding.life.empty()) text += ", " + finding.life;
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
  const auto is_word = [](const record::CheckResult& c) { return c.name == "phase_completion" || c.name == "path_taken" || c.name == "comm_log"; };
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

void merge(CheckOutcome outcome, std::size_t check, Placed place, Merged& merged) {
  merge_result(outcome, merged.record.checks[check]);
  for (Finding& finding : outcome.findings) {
    place.finding = std::move(finding);
    merged.findings.push_back(place);
  }
  merge_stages(outcome.stages, merged.record);
  merge_experts(outcome.experts, merged.record);
}

void run_life(const JudgeInput& input, std::size_t number, std::span<const Check* const> chosen, Merged& merged) {
  const LifeInput& life = input.lives[number];
  MOECHECK_REQUIRE(static_cast<Dim>(life.batches.size()) > life.life.one.first_batch && life.batches.size() == life.expected.size());
  const bool is_last = number + 1 == input.lives.size();
  const auto failures = is_last ? input.phase_failures : std::vector<PhaseFailure>{};
  Dim num_batches = static_cast<Dim>(life.batches.size());
  for (const PhaseFailure& failure : failures) num_batches = std::min(num_batches, failure.batch + 1);   // nothing ran after it
  for (Dim b = life.life.one.first_batch; b < num_batches; ++b) {
    const auto at = static_cast<std::size_t>(b);
    const CheckInput batch{life.life.one, life.expected[at], life.batches[at], failures, b, life.batches.first(at),
                           is_last ? input.mismatch : std::nullopt};
    for (std::size_t i = 0; i < chosen.size(); ++i)
      if (chosen[i]->run != nullptr) merge(chosen[i]->run(batch), i, {{}, b, number}, merged);
  }
}

// In the life that it names, after the step that it names: what a load brought comes before the batches that compute with it.
Placed place_across(const JudgeInput& input, Finding finding) {
  const auto named = std::ranges::find(input.lives, finding.life, [](const LifeInput& life) { return life.life.name; });
  const auto life = named == input.lives.end() ? input.lives.size() - 1 : static_cast<std::size_t>(named - input.lives.begin());
  const Dim batch = finding.step.value_or(0) * input.one.training.microbatches - 1;
  return {std::move(finding), batch, life, false};
}

// A case that broke off has nothing to compare.
void run_across(const JudgeInput& input, std::span<const Check* const> chosen, Merged& merged) {
  const bool broke_off = !input.phase_failures.empty() || input.mismatch;
  for (std::size_t i = 0; i < chosen.size(); ++i) {
    if (chosen[i]->run_case == nullptr) continue;
    if (broke_off) {
      merged.record.checks[i].note = "the run broke off";
      continue;
    }
    CheckOutcome outcome = chosen[i]->run_case({input.one, input.lives});
    for (Finding& finding : outcome.findings) merged.findings.push_back(place_across(input, std::move(finding)));
    outcome.findings.clear();
    merge(std::move(outcome), i, {}, merged);
  }
}

}  // namespace

base::Result<CaseRecord> judge(const JudgeInput& input) {
  MOECHECK_REQUIRE(!input.lives.empty());
  auto chosen = chosen_checks(input.one);
  if (!chosen) return chosen.error();
  Merged merged;
  for (const Check* check : *chosen) merged.record.checks.push_back({std::string(check->name), CheckState::kNotApplicable, 0, ""});
  for (std::size_t life = 0; life < input.lives.size(); ++life) run_life(input, life, *chosen, merged);
  run_across(input, *chosen, merged);
  CaseRecord& one = merged.record;
  std::ranges::stable_sort(merged.findings, {}, &Placed::order);
  drop_repeated(merged.findings);
  for (Placed& placed : merged.findings) {
    name_step(input.one, placed);
    if (input.lives.size() > 1 && placed.finding.life.empty()) placed.finding.life = input.lives[placed.life].life.name;
    one.findings.push_back(std::move(placed.finding));
  }
  std::ranges::sort(one.experts, {}, [](const record::ExpertCell& c) { return std::tuple(c.expert, c.rank); });
  if (!one.findings.empty() && record::is_failure(one.findings.front())) one.first_diverging = place_text(one.findings.front());
  give_verdict(one);
  return std::move(one);
}

}  // namespace moecheck::check
