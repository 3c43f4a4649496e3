// Exit codes for `git bisect run` and its kin.
#pragma once

#include "harness/record/verdict.h"

namespace moecheck::bisect {

inline constexpr int kStepGood = 0;
inline constexpr int kStepBad = 1;
inline constexpr int kStepSkip = 125;   // this commit cannot be tested
inline constexpr int kStepAbort = 129;  // git bisect stops: a typo must never blame a commit

int step_exit_code(record::ExitCode run);

}  // namespace moecheck::bisect
