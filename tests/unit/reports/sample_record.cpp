#include "tests/unit/reports/sample_record.h"

#include <array>
#include <limits>

#include <fmt/format.h>

namespace moecheck::reports::sample {
namespace {

using record::CaseRecord;
using record::CheckState;
using record::ExpertCell;
using record::Finding;
using record::FindingClass;
using record::RunRecord;
using record::StageCell;
using record::Verdict;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr std::array kStages = {"router/logits_TE",   "router/scores_TK",   "router/ids_TK",  "dispatch/counts_e",
                                "dispatch/rows_R3",   "experts/gate_up_RG", "experts/act_RF", "experts/out_RD",
                                "combine/partial_TD", "output/y_TD"};

CaseRecord new_case(const std::string& id, Verdict verdict, const std::string& scenario, double seconds) {
  CaseRecord one;
  one.id = id;
  one.scenario = scenario;
  one.config = {{"impl", "ep_allreduce"}, {"model", "qwen3_moe"},       {"mesh", "ep=2"},
                {"dtype", "bf16"},        {"experts_backend", "eager"}, {"tokens", "7"},
                {"routing", "natural"},   {"phases", "load,forward"},   {"seed", "7"}};
  one.verdict = verdict;
  one.seconds = seconds;
  one.subject_seconds = seconds * 0.75;
  one.repro = fmt::format("moecheck run --case \"{}\"", id);
  return one;
}

StageCell cell(const std::string& stage, std::int64_t rank, double used) {
  constexpr double kBound = 3.90625e-3;
  return {stage, rank, used * kBound, kBound, used, 336};
}

// Errors well within their bounds, unlike each other as those of a real run are.
std::vector<StageCell> sound_stages(std::int64_t num_ranks) {
  constexpr std::array kUsed = {0.31, 0.22, 0.0, 0.0, 0.0, 0.42, 0.38, 0.55, 0.47, 0.5};
  std::vector<StageCell> cells;
  for (std::size_t i = 0; i < kStages.size(); ++i)
    for (std::int64_t rank = 0; rank < num_ranks; ++rank)
      cells.push_back(cell(kStages[i], rank, kUsed[i] * (1.0 - 0.07 * static_cast<double>(rank))));
  return cells;
}

std::vector<ExpertCell> sound_experts(std::int64_t num_experts, std::int64_t num_ranks) {
  constexpr std::array<std::int64_t, 8> kTokens = {3, 5, 0, 2, 4, 1, 6, 0};
  std::vector<ExpertCell> cells;
  for (std::int64_t expert = 0; expert < num_experts; ++expert)
    for (std::int64_t rank = 0; rank < num_ranks; ++rank) {
      const bool is_local = expert * num_ranks / num_experts == rank;
      cells.push_back({rank, expert, is_local, is_local ? kTokens[static_cast<std::size_t>(expert % 8)] : 0, 0, ""});
    }
  return cells;
}

CaseRecord passing_case() {
  CaseRecord one = new_case("impl=ep_allreduce model=qwen3_moe mesh=ep=2 dtype=fp32 seed=7", Verdict::kPass, "ep/basic", 0.31);
  one.checks = {{"weights_identity", CheckState::kPass, 8160, ""},
                {"stage_diff", CheckState::kPass, 6720, ""},
                {"expert_census", CheckState::kPass, 8, ""},
                {"token_conservation", CheckState::kPass, 21, ""}};
  one.stages = sound_stages(2);
  one.experts = sound_experts(8, 2);
  return one;
}

std::vector<Finding> dropped_tokens_findings() {
  Finding rows{"stage_diff", FindingClass::kBug, "combine/partial_TD", "partial", std::nullopt, 1, 5, 4, 1, 0.4375, 0.0, 0.4375,
               3.90625e-3, 112.0, 336, "3 of 7 rows differ", "tokens of non-local experts dropped"};
  Finding nan{"stage_diff", FindingClass::kBug, "output/y_TD", "y", std::nullopt, 0, std::nullopt, 2, std::nullopt, -1.28125, kNan, kNan,
              7.8125e-3, kNan, 336, "1 of 7 rows is NaN", "a row that nobody wrote"};
  Finding count{"token_conservation", FindingClass::kContract, "dispatch/counts_e", "counts", std::nullopt, 1, 5, std::nullopt,
                std::nullopt, 9.0, 8.0, 1.0, 0.0, std::numeric_limits<double>::infinity(), 4,
                "rank 1 computed 8 of the 9 rows that chose expert 5", ""};
  Finding noise{"stage_diff", FindingClass::kNoise, "router/logits_TE", "", std::nullopt, 0, std::nullopt, 3, std::nullopt, std::nullopt,
                std::nullopt, 1.2e-3, 3.90625e-3, 0.31, 56, "largest difference of the router", ""};
  return {rows, nan, count, noise};
}

CaseRecord dropped_tokens_case() {
  CaseRecord one = new_case("impl=ep_allreduce model=qwen3_moe mesh=ep=2 dtype=bf16 seed=7", Verdict::kFail, "ep/basic", 0.42);
  one.checks = {{"weights_identity", CheckState::kPass, 8160, ""},
                {"stage_diff", CheckState::kFail, 6720, ""},
                {"token_conservation", CheckState::kFail, 21, ""},
                {"grad_diff", CheckState::kNotApplicable, 0, "no backward phase"},
                {"comm_trace", CheckState::kUnobserved, 0, "the subject offers no comm tap"}};
  one.findings = dropped_tokens_findings();
  one.first_diverging = "dispatch/counts_e, rank 1, expert 5: want 9, got 8";
  one.stages = sound_stages(2);
  for (StageCell& c : one.stages) {
    if (c.rank == 1 && c.stage == "dispatch/counts_e") c.used = std::numeric_limits<double>::infinity();
    if (c.rank == 1 && c.stage == "combine/partial_TD") c.used = 112;
    if (c.stage == "output/y_TD") c.used = c.rank == 0 ? kNan : 96.4;
    c.measured = c.used * c.bound;
  }
  std::erase_if(one.stages, [](const StageCell& c) { return c.rank == 1 && c.stage == "experts/act_RF"; });
  one.experts = sound_experts(8, 2);
  return one;
}

CaseRecord wrong_experts_case() {
  CaseRecord one = new_case("impl=ep_alltoall model=mixtral mesh=ep=4 dtype=fp32 experts_backend=grouped_mm seed=1",
                            Verdict::kFail, "checkpoint/expert_order", 0.88);
  one.config[0].second = "ep_alltoall";
  one.config[2].second = "ep=4";
  one.checks = {{"expert_census", CheckState::kFail, 8, ""},
                {"stage_diff", CheckState::kPass, 13440, "judged on the weights that were loaded"}};
  one.findings = {{"expert_census", FindingClass::kBug, "param/experts/gate_up_EGD", "experts.gate_up_proj", std::nullopt, 1, 2, std::nullopt,
                   std::nullopt, std::nullopt, std::nullopt, 40.0, 0.0, std::nullopt, 8,
                   "2 of 8 experts hold another expert's weights", "experts 2 and 3 are swapped on rank 1"},
                  {"expert_census", FindingClass::kBug, "param/experts/down_EDF", "experts.down_proj", std::nullopt, 3, 6, std::nullopt,
                   std::nullopt, std::nullopt, std::nullopt, 48.0, 0.0, std::nullopt, 8, "expert 6 holds nobody's weights", ""}};
  one.first_diverging = "param/experts/gate_up_EGD, rank 1, expert 2";
  one.stages = sound_stages(4);
  one.experts = sound_experts(8, 4);
  for (ExpertCell& c : one.experts) {
    if (!c.is_local) continue;
    if (c.expert == 2 || c.expert == 3) {
      c.wrong_rows = 40;
      c.holds = c.expert == 2 ? "expert 3" : "expert 2";
    }
    if (c.expert == 6) {
      c.wrong_rows = 48;
      c.holds = "nobody's";
    }
  }
  return one;
}

CaseRecord crash_case() {
  CaseRecord one =
      new_case("impl=ep_alltoall model=qwen3_moe mesh=ep=4 dtype=bf16 routing=idle_rank", Verdict::kCrash, "ep/empty_ranks", 1.7);
  one.reason = "rank 2 was ended by signal 11 (SIGSEGV) in phase forward, after dispatch/counts_e\nlast lines of its stderr:\n"
               "  grouped_mm: offsets (0,)\n  terminate called without an active exception";
  return one;
}

CaseRecord timeout_case() {
  CaseRecord one = new_case("impl=tp_sharded model=mixtral mesh=ep=2,tp=2 dtype=bf16", Verdict::kTimeout, "ep_tp/basic", 60.4);
  one.reason = "no answer for 60 s: ranks 0, 1 wait in all_reduce #7 of group tp0, ranks 2, 3 in all_to_all #7 of group ep0";
  return one;
}

}  // namespace

RunRecord realistic_run() {
  RunRecord run;
  run.moecheck_version = "0.1.0";
  run.command = "moecheck run scenarios/suites/nightly.yaml --report html,junit";
  run.subject = "moecheck-rank 0.1.0 (torch 2.11.0)";
  run.started = "2026-03-02T04:05:06Z";
  run.seconds = 81.6;
  CaseRecord unsupported =
      new_case("impl=ep_allreduce model=qwen3_moe mesh=ep=3 dtype=bf16", Verdict::kUnsupported, "ep/uneven", 0.02);
  unsupported.reason = "8 experts cannot be divided over ep=3";
  CaseRecord xfail =
      new_case("impl=ep_allreduce model=qwen3_moe mesh=ep=2 dtype=bf16 routing=ties", Verdict::kXfail, "ep/ties", 0.4);
  xfail.reason = "ties are broken by the higher id on this backend";
  CaseRecord vacuous =
      new_case("impl=ep_allreduce model=qwen3_moe mesh=ep=2 dtype=fp32 tokens=0", Verdict::kVacuous, "ep/empty_ranks", 0.2);
  vacuous.checks = {{"stage_diff", CheckState::kVacuous, 0, "no rank has a token"}};
  CaseRecord error = new_case("impl=ep_allreduce model=qwen3_moe mesh=ep=2 dtype=fp32 seed=9", Verdict::kError, "ep/basic", 0.1);
  error.reason = "rank0.safetensors: No space left on device";
  run.cases = {passing_case(), dropped_tokens_case(), unsupported, wrong_experts_case(),
               crash_case(),   timeout_case(),        xfail,       vacuous,
               error};
  return run;
}

RunRecord hostile_run() {
  const std::string everything = fmt::format("{} {} a&b \"q\" 'p' `t` |c| \x1b[31mred ", kScript, kImage) + std::string(1, '\0') +
                                 "\xff\xc0\xaf \xed\xa0\x80 \xe2\x80\xaegnp \xef\xbf\xbf \xc2\x9b" "5m ]]> --> \x07";
  RunRecord run;
  run.moecheck_version = run.command = run.subject = run.started = everything;
  CaseRecord one = new_case(everything, Verdict::kFail, everything, 0.4);
  one.config = {{everything, everything}};
  one.reason = everything + "\nsecond line\r\n\x1b]0;title\x07";
  one.first_diverging = everything + ", rank 0";
  one.checks = {{everything, CheckState::kUnobserved, 0, everything}};
  one.findings = {{everything, FindingClass::kBug, everything, everything, 1, 0, 1, 2, 3, kNan, kNan, kNan, kNan, kNan, 4,
                   everything, everything}};
  one.stages = {cell(everything, 0, 12)};
  one.experts = {{0, 0, true, 3, 4, everything}};
  run.cases = {one};
  for (const Verdict verdict : {Verdict::kXfail, Verdict::kSkipped, Verdict::kPass, Verdict::kError}) {
    run.cases.push_back(one);
    run.cases.back().verdict = verdict;
  }
  return run;
}

RunRecord passing_run(int num_cases) {
  RunRecord run;
  run.seconds = 8.1;
  for (int i = 0; i < num_cases; ++i) {
    run.cases.push_back(passing_case());
    run.cases.back().id = fmt::format("impl=ep_allreduce model=qwen3_moe mesh=ep=2 dtype=fp32 seed={}", i);
  }
  return run;
}

}  // namespace moecheck::reports::sample
