// Runs the checks of a case and turns their outcomes into a verdict.
#pragma once

#include "harness/check/registry.h"

namespace moecheck::check {

struct JudgeInput {
  const cases::Case& one;
  std::span<const trace::Expected> expected;   // expected[b] belongs to batches[b]
  std::span<const trace::Trace> batches;
  std::vector<PhaseFailure> phase_failures = {};
  std::optional<CollectiveMismatch> mismatch = {};
};

// Runs every check of the case once a batch, up to the one in which a phase failed, and merges what it says: the worst state of
// fail, vacuous, pass, unobserved, not_applicable; the sum of what was compared; for each stage and rank the worst error.
// Fills verdict, checks, findings (failures first, then by batch, stage order, rank), first_diverging, stages and experts.
// Findings of a case with steps say in which step they are; one that repeats in later batches stands once.
// Verdict: fail if any finding is a failure; else vacuous if a check that applies compared nothing or only zeros; else
// inconclusive if a finding is; else pass. Unobserved checks are listed and do not fail.
// The caller fills id, scenario, config, seconds, repro, and applies xfail.
// Requires: as many expected as batches, at least one.
// Errors: kUsage for an unknown name in Case::checks, with did-you-mean.
base::Result<record::CaseRecord> judge(const JudgeInput& input);

}  // namespace moecheck::check
