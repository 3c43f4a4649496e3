#include "harness/record/verdict.h"

#include <array>

#include "harness/base/require.h"

namespace moecheck::record {
namespace {

struct VerdictRow {
  Verdict verdict;
  std::string_view name;
  bool failure;
  std::string_view meaning;
};

constexpr std::array kRows = {
    VerdictRow{Verdict::kUntested, "untested", true, "nobody gave a verdict; a defect of the harness or an interrupted run"},
    VerdictRow{Verdict::kPass, "pass", false, "every check that applies compared something and found nothing"},
    VerdictRow{Verdict::kFail, "fail", true, "a check has a finding of class bug or contract"},
    VerdictRow{Verdict::kError, "error", false, "infrastructure: the case could not be run or judged; says nothing about the subject"},
    VerdictRow{Verdict::kCrash, "crash", true, "a rank was ended by a signal or left without being asked to"},
    VerdictRow{Verdict::kTimeout, "timeout", true, "a rank did not answer in time; the reason says who waits in which collective"},
    VerdictRow{Verdict::kSkipped, "skipped", false, "not run, for the reason given"},
    VerdictRow{Verdict::kUnsupported, "unsupported", false, "the subject declares that it does not support this case, or refused it loudly"},
    VerdictRow{Verdict::kXfail, "xfail", false, "failed, as the scenario expects"},
    VerdictRow{Verdict::kXpass, "xpass", true, "passed, though the scenario expects a failure: remove the xfail"},
    VerdictRow{Verdict::kVacuous, "vacuous", true, "a check compared nothing, or only zeros: it proves nothing"},
    VerdictRow{Verdict::kFlaky, "flaky", true, "repeats of the same case disagree"},
    VerdictRow{Verdict::kInconclusive, "inconclusive", false, "the evidence allows both noise and bug"},
};

const VerdictRow& row(Verdict verdict) {
  const auto index = static_cast<std::size_t>(verdict);
  MOECHECK_REQUIRE(index < kRows.size() && kRows[index].verdict == verdict);
  return kRows[index];
}

}  // namespace

std::string_view verdict_name(Verdict verdict) { return row(verdict).name; }
std::string_view verdict_meaning(Verdict verdict) { return row(verdict).meaning; }
bool is_failure(Verdict verdict) { return row(verdict).failure; }

std::optional<Verdict> verdict_from_name(std::string_view name) {
  for (const VerdictRow& r : kRows)
    if (r.name == name) return r.verdict;
  return std::nullopt;
}

std::vector<Verdict> all_verdicts() {
  std::vector<Verdict> all;
  for (const VerdictRow& r : kRows) all.push_back(r.verdict);
  return all;
}

}  // namespace moecheck::record
