// The verdicts of a case and the exit codes of a run.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

namespace moecheck::record {

// The zero value is kUntested and counts as a failure: a verdict that nobody gave is none.
enum class Verdict {
  kUntested, kPass, kFail, kError, kCrash, kTimeout, kSkipped, kUnsupported, kXfail, kXpass, kVacuous, kFlaky, kInconclusive,
};

std::string_view verdict_name(Verdict verdict);  // "pass", "fail", ...
std::optional<Verdict> verdict_from_name(std::string_view name);
std::vector<Verdict> all_verdicts();
std::string_view verdict_meaning(Verdict verdict);  // for `moecheck explain`

bool is_failure(Verdict verdict);  // fail, crash, timeout, xpass, vacuous, flaky, untested

enum ExitCode : int {
  kExitGood = 0, kExitFailed = 1, kExitInterrupted = 2, kExitInternal = 3, kExitUsage = 4, kExitNothing = 5,
  kExitCouldNotTest = 6, kExitInconclusive = 7,
};

}  // namespace moecheck::record
