#include "harness/bisect/step.h"

namespace moecheck::bisect {

int step_exit_code(record::ExitCode run) {
  switch (run) {
    case record::kExitGood: return kStepGood;
    case record::kExitFailed: return kStepBad;
    case record::kExitCouldNotTest:
    case record::kExitInconclusive: return kStepSkip;
    case record::kExitInterrupted:
    case record::kExitInternal:
    case record::kExitUsage:
    case record::kExitNothing: return kStepAbort;
  }
  return kStepAbort;
}

}  // namespace moecheck::bisect
