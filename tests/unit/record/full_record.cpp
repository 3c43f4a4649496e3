#include "tests/unit/record/full_record.h"

#include <limits>

namespace moecheck::record {

RunRecord full_record() {
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  constexpr double kInf = std::numeric_limits<double>::infinity();
  CaseRecord one;
  one.id = "impl=ep_allreduce model=qwen3_moe mesh=ep=2 dtype=bf16 seed=7";
  one.scenario = "ep/basic";
  one.config = {{"seed", "7"}, {"impl", "ep_allreduce"}};
  one.verdict = Verdict::kFail;
  one.reason = "two\nlines";
  one.seconds = 0.5;
  one.subject_seconds = 0.25;
  one.repro = "moecheck run --case \"seed=7\"";
  one.checks = {{"stage_diff", CheckState::kFail, 336, "note"},        {"a", CheckState::kPass, 1, ""},
                {"b", CheckState::kVacuous, 0, "no rows"},              {"c", CheckState::kUnobserved, 0, "no tap"},
                {"d", CheckState::kNotApplicable, 0, "no backward phase"}};
  one.findings = {{"stage_diff", FindingClass::kBug, "output/y_TD", "y", 2, 1, 5, 4, 2, 0.4375, -kInf, kInf, 3.9e-3, kNan, 336,
                   "message", "hypothesis", "control 1"},
                  {"stage_diff", FindingClass::kContract, "", "", {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, 0, "", ""},
                  {"stage_diff", FindingClass::kBenignFlip, "router/ids_TK", "", {}, 0, {}, 3, {}, {}, {}, {}, {}, {}, 3, "", ""},
                  {"stage_diff", FindingClass::kNoise, "router/ids_TK", "", {}, 0, {}, 3, {}, {}, {}, 0.1, 0.2, 0.5, 3, "", ""},
                  {"stage_diff", FindingClass::kInconclusive, "router/ids_TK", "", {}, 0, {}, 3, {}, {}, {}, {}, {}, {}, 3, "", ""}};
  one.first_diverging = "output/y_TD, rank 1, expert 5";
  one.stages = {{"router/logits_TE", 0, 1e-3, 1e-2, 0.1, 56}, {"output/y_TD", 1, kNan, 0, kInf, 336}};
  one.experts = {{1, 5, true, 9, 4, "expert 3"}, {0, 5, false, 0, 0, ""}};
  one.digests = {{"output/y_TD", "00c0ffee00c0ffee"}};

  RunRecord run;
  run.moecheck_version = "0.1.0";
  run.command = "moecheck run";
  run.subject = "subject 1";
  run.started = "2026-03-02T04:05:06Z";
  run.seconds = 1.5;
  run.interrupted = true;
  run.cases = {one};
  for (const Verdict verdict : all_verdicts()) {
    CaseRecord bare;
    bare.id = "bare";
    bare.verdict = verdict;
    run.cases.push_back(bare);
  }
  return run;
}

}  // namespace moecheck::record
