// Runs the checks of a case and turns their outcomes into a verdict.
#pragma once

#include "harness/check/registry.h"

namespace moecheck::check {

struct JudgeInput {
  const cases::Case& one;
  // Those that were begun, in order: all of cases::lives_of(one), or up to the one in which the run broke off.
  std::span<const LifeInput> lives;
  std::vector<PhaseFailure> phase_failures = {};   // of the last of them
  std::optional<CollectiveMismatch> mismatch = {}; // likewise
};

// Runs every check of the case once a batch of each life, up to the one in which a phase failed, those that look across lives once
// if none failed, and merges what they say: the worst state of
// fail, vacuous, pass, unobserved, not_applicable; the sum of what was compared; for each stage and rank the worst error.
// Fills verdict, checks, findings (failures first, then by life, batch, stage order, rank), first_diverging, stages and experts.
// Findings of a case with steps say in which step they are; one that repeats in later batches stands once.
// Verdict: fail if any finding is a failure; else vacuous if a check that applies compared nothing or only zeros; else
// inconclusive if a finding is; else pass. Unobserved checks are listed and do not fail.
// The caller fills id, scenario, config, seconds, repro, and applies xfail.
// Requires: at least one life; in each as many expected as batches, at least one from its first batch on.
// Errors: kUsage for an unknown name in Case::checks, with did-you-mean.
base::Result<record::CaseRecord> judge(const JudgeInput& input);

}  // namespace moecheck::check
