// Runs the checks of a case and turns their outcomes into a verdict.
#pragma once

#include "harness/check/registry.h"

namespace moecheck::check {

// Fills verdict, checks, findings (failures first, then by stage order, rank), first_diverging, stages and experts.
// Verdict: fail if any finding is a failure; else vacuous if a check that applies compared nothing or only zeros; else
// inconclusive if a finding is; else pass. Unobserved checks are listed and do not fail.
// The caller fills id, scenario, config, seconds, repro, and applies xfail.
// Errors: kUsage for an unknown name in Case::checks, with did-you-mean.
base::Result<record::CaseRecord> judge(const CheckInput& input);

}  // namespace moecheck::check
