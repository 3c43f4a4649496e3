// Proves:       the implementation and experts backend asked for are, by the subject's word, the ones that ran.
// Cannot prove: that the subject tells the truth about its own path.
// Reads:        implementation, experts_backend      Applies when: always
#include <fmt/format.h>

#include "harness/check/readable.h"

namespace moecheck::check {
namespace {

constexpr std::string_view kName = "path_taken";
constexpr std::string_view kPhase = "load";

void compare_name(const trace::RankTrace& rank, std::string_view what, const std::string& asked, const std::string& ran,
                  CheckOutcome& outcome) {
  if (ran == asked) return;
  auto finding = make_finding(kName, kPhase, rank.rank,
                              fmt::format("asked for {} {}, {} ran", what, asked, ran.empty() ? "nobody says which" : ran));
  finding.tensor = what;
  finding.hypothesis = ran.empty() ? "" : "silent fallback: the path meant to be tested is not the one that ran";
  outcome.findings.push_back(std::move(finding));
}

void look_at_rank(const CheckInput& input, const trace::RankTrace& rank, CheckOutcome& outcome) {
  compare_name(rank, "implementation", input.one.impl, rank.implementation, outcome);
  compare_name(rank, "experts_backend", input.one.experts_backend, rank.experts_backend, outcome);
  ++outcome.compared;
}

CheckOutcome run(const CheckInput& input) {
  CheckOutcome outcome;
  bool is_anything_said = false;
  for (const trace::RankTrace& rank : input.observed.ranks) {
    // A rank that died before it wrote a trace says nothing about its path; phase_completion reports it.
    if (rank.implementation.empty() && rank.experts_backend.empty() && rank.taps.empty()) continue;
    is_anything_said = true;
    look_at_rank(input, rank, outcome);
  }
  if (!is_anything_said) {
    outcome.state = record::CheckState::kUnobserved;
    outcome.note = "no rank says which implementation and experts backend ran";
    return outcome;
  }
  for (record::Finding& finding : outcome.findings) {
    finding.cls = record::FindingClass::kContract;
    finding.compared = outcome.compared;
  }
  conclude(outcome, "no rank reported");
  return outcome;
}

MOECHECK_REGISTER_CHECK({kName,
                         {"the implementation and experts backend asked for are, by the subject's word, the ones that ran",
                          "that the subject tells the truth about its own path",
                          "implementation, experts_backend", "always"},
                         run});

}  // namespace
}  // namespace moecheck::check
