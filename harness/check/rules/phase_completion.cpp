// Proves:       every rank finished every phase that it was asked to do, and shows something of every batch.
// Cannot prove: that what it did in them is right.
// Reads:        the ranks' own reports of failures, what they show at all      Applies when: always
#include <algorithm>
#include <array>
#include <set>

#include <fmt/format.h>

#include "harness/check/readable.h"
#include "harness/trace/tap_points.h"

namespace moecheck::check {
namespace {

constexpr std::string_view kName = "phase_completion";
constexpr std::string_view kUnsaid = "the rank broke off and did not say why";
constexpr std::size_t kMaxFindings = 4;  // ranks named; the first cause is among them, the rest are mostly its echoes

// What a rank says when another one left, if it is still heard; the cause is elsewhere.
bool is_echo(const PhaseFailure& failure) {
  constexpr std::array<std::string_view, 6> kEchoes = {"onnection closed by peer", "onnection reset by peer", "roken pipe",
                                                       "imed out", "ransport endpoint", kUnsaid};
  return std::ranges::any_of(kEchoes, [&](std::string_view echo) { return failure.message.find(echo) != std::string::npos; });
}

// One a rank: its first failure; causes before echoes, then by rank.
std::vector<PhaseFailure> by_rank(const CheckInput& input) {
  std::vector<PhaseFailure> failures;
  std::set<std::int64_t> seen;
  for (const PhaseFailure& failure : input.phase_failures)
    if (failure.batch == input.batch && seen.insert(failure.rank).second) failures.push_back(failure);
  for (const trace::RankTrace& rank : input.observed.ranks)
    if (rank.aborted && seen.insert(rank.rank).second)
      failures.push_back({rank.rank, input.one.phases.back(), std::string(kUnsaid), "", input.batch});
  std::ranges::stable_sort(failures, {}, [](const PhaseFailure& f) { return std::pair(is_echo(f), f.rank); });
  return failures;
}

std::int64_t num_phases(const CheckInput& input) {
  return std::ranges::count_if(input.one.phases, [&](const std::string& phase) {
    return phase == "load" ? input.one.is_first(input.batch) : phase != "step" || input.one.ends_step(input.batch);
  });
}

bool shows_forward(const trace::RankTrace& rank) {
  return std::ranges::any_of(rank.taps, [](const auto& tap) {
    const trace::TapPoint* point = trace::find_tap(tap.first);
    return point != nullptr && point->phase == "forward";
  });
}

// A rank that goes silent after the first batch would leave every check with less to look at, and nothing to complain about.
void look_for_silence(const CheckInput& input, CheckOutcome& outcome) {
  if (input.one.is_first(input.batch) || was_cut_short(input)) return;
  for (const trace::RankTrace& before : input.earlier[static_cast<std::size_t>(input.one.first_batch)].ranks) {
    const trace::RankTrace* now = rank_trace(input, before.rank);
    if (!shows_forward(before) || (now != nullptr && shows_forward(*now))) continue;
    auto finding = make_finding(kName, "forward", before.rank, fmt::format("shows nothing of batch {}, and did of the first", input.batch));
    finding.cls = record::FindingClass::kContract;
    finding.compared = outcome.compared;
    outcome.findings.push_back(std::move(finding));
  }
}

CheckOutcome run(const CheckInput& input) {
  CheckOutcome outcome;
  outcome.compared = input.one.world_size() * num_phases(input);
  look_for_silence(input, outcome);
  const auto failures = by_rank(input);
  for (const PhaseFailure& failure : failures) {
    if (outcome.findings.size() == kMaxFindings) break;
    auto finding = make_finding(kName, failure.phase, failure.rank,
                                fmt::format("phase {} raised: {}", failure.phase, failure.message));
    finding.compared = outcome.compared;
    if (is_echo(failure)) finding.hypothesis = is_echo(failures.front())
        ? "a rank left; none says why" : fmt::format("echo of the failure of rank {}", failures.front().rank);
    outcome.findings.push_back(std::move(finding));
  }
  conclude(outcome, "the case has no phases");
  return outcome;
}

MOECHECK_REGISTER_CHECK({kName,
                         {"every rank finished every phase that it was asked to do, and shows something of every batch",
                          "that what it did in them is right",
                          "the ranks' own reports of failures, what they show at all", "always"},
                         run});

}  // namespace
}  // namespace moecheck::check
