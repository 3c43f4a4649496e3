// Proves:       of each expert, over all tokens and ranks, <W_down, dW_down> = <W_up, dW_up> = sum over its rows of s ds: the
//               layer is homogeneous of degree 1 in each (Euler's theorem), so gradients of one loss agree, by the subject's
//               own numbers and within the roundings of its own stages.
// Cannot prove: gradients that are wrong alike; the gate's; up's where it is clamped or shifted; that of s with apply_scores=before_experts;
//               anything orthogonal to W.
// Reads:        param/experts, grad/experts, router/scores, grad/scores, row taps      Applies when: a backward ran
#include <algorithm>
#include <array>
#include <cmath>
#include <map>

#include <fmt/format.h>

#include "harness/check/euler_sums.h"
#include "harness/check/hypothesis.h"
#include "harness/check/readable.h"
#include "harness/tolerance/bounds.h"

namespace moecheck::check {
namespace {

constexpr std::string_view kName = "euler_identity";
constexpr std::string_view kScoreGrads = "grad/scores_TK";
constexpr std::array<std::string_view, 11> kNeeded = {
    "param/experts/gate_up_EGD", "param/experts/down_EDF", "grad/experts/gate_up_EGD", "grad/experts/down_EDF",
    "dispatch/rows_R3",          "experts/gate_up_RG",     "experts/act_RF",           "experts/out_RD",
    "grad/out_RD",               "grad/act_RF",            "grad/gate_up_RG"};
constexpr std::array<std::string_view, 3> kOfScores = {"router/ids_TK", "router/scores_TK", kScoreGrads};

struct Side {
  std::string_view name;
  std::string_view tap;
  double value = 0;
};

struct Difference {
  double measured = 0;
  double bound = 0;

  bool is_judged() const { return std::isfinite(bound); }
  bool is_kept() const { return !is_judged() || tolerance::within(measured, bound); }
};

Difference difference(const InnerProduct& a, const InnerProduct& b, double between) {
  return {std::fabs(a.value - b.value), a.total_bound() + b.total_bound() + between};
}

bool is_linear_in_up(const CheckInput& input) {
  const model::Activation& activation = input.one.problem.model.activation;
  return activation.up_shift == 0 && std::isinf(activation.limit);
}

void judge_expert(const CheckInput& input, Dim e, const EulerSums& expert, bool are_scores_shown, CheckOutcome& outcome) {
  const bool has_up = is_linear_in_up(input);
  const Difference down_up = has_up ? difference(expert.down, expert.up, expert.down_to_up) : Difference{};
  const Difference down_score = are_scores_shown ? difference(expert.down, expert.score, expert.down_to_score) : Difference{};
  const bool has_scores = are_scores_shown && down_score.is_judged();
  if (expert.rows > 0) outcome.compared += (has_up && down_up.is_judged() ? 1 : 0) + (has_scores ? 1 : 0);
  if (!down_up.is_judged() || !down_score.is_judged())
    outcome.note += fmt::format("{}expert {} not judged in full: inputs of a stage are missing or not finite",
                                outcome.note.empty() ? "" : "; ", e);
  if (down_up.is_kept() && down_score.is_kept()) return;
  const Side down{"<W_down, dW_down>", "grad/experts/down_EDF", expert.down.value};
  const Side up{"<W_up, dW_up>", "grad/experts/gate_up_EGD", expert.up.value};
  const Side score{"sum of s ds", kScoreGrads, expert.score.value};
  const bool do_up_and_score_agree = has_scores && difference(expert.up, expert.score, expert.down_to_up + expert.down_to_score).is_kept();
  // Two that agree show which is the odd one; otherwise the first in order of computation is blamed.
  const Side& odd = down_up.is_kept() ? score : down_score.is_kept() && has_scores ? up : down;
  const Side& other = down_up.is_kept() ? down : odd.tap == up.tap ? down : up;
  const Difference& failed = down_up.is_kept() ? down_score : down_up;
  const bool is_known = has_up && has_scores && (down_up.is_kept() || down_score.is_kept() || do_up_and_score_agree);
  std::string sides = fmt::format("{} = {:.6g}", down.name, down.value);
  if (has_up) sides += fmt::format(", {} = {:.6g}", up.name, up.value);
  if (has_scores) sides += fmt::format(", {} = {:.6g}", score.name, score.value);
  const std::string guilty = is_known ? fmt::format("{} is the odd one", odd.name) : "which is wrong cannot be told";
  auto finding = make_finding(kName, odd.tap, expert.rank, fmt::format("{}, declared equal: {}", sides, guilty));
  if (odd.tap == kScoreGrads) finding.rank.reset();   // the tokens of an expert are everywhere
  finding.expert = e;
  finding.want = other.value;
  finding.got = odd.value;
  finding.measured = failed.measured;
  finding.bound = failed.bound;
  finding.used = tolerance::used(failed.measured, failed.bound);
  finding.compared = expert.rows;
  finding.hypothesis = ratio_clause({other.value}, {odd.value}, input.one.problem);
  outcome.findings.push_back(std::move(finding));
}

// One finding a stage, the worst: a wrong gradient is rarely wrong for one expert, and each says the same.
void keep_worst(std::vector<record::Finding>& findings) {
  std::map<std::string, std::vector<record::Finding>> by_stage;
  for (record::Finding& finding : findings) by_stage[finding.stage].push_back(std::move(finding));
  findings.clear();
  for (auto& [stage, all] : by_stage) {
    const auto badness = [](const record::Finding& f) { return std::isnan(f.used.value_or(0)) ? HUGE_VAL : f.used.value_or(0); };
    record::Finding worst = *std::ranges::max_element(all, {}, badness);
    if (all.size() > 1) worst.message += fmt::format("; {} experts in all", all.size());
    findings.push_back(std::move(worst));
  }
}

// All ranks show all of these as declared.
bool are_readable(const CheckInput& input, const Readable& taps, std::span<const std::string_view> names) {
  for (const std::string_view tap : names)
    for (Dim rank = 0; rank < input.one.world_size(); ++rank)
      if (taps.get(rank, tap) == nullptr) return false;
  return true;
}

CheckOutcome run(const CheckInput& input) {
  CheckOutcome outcome;
  if (!input.one.has_phase("backward")) {
    outcome.note = "no backward";
    return outcome;
  }
  const bool is_linear_in_scores = input.one.problem.score_position == model::ScorePosition::kAfterExperts;
  if (!is_linear_in_scores && !is_linear_in_up(input)) {
    outcome.note = "neither the activation is linear in up, nor the output in the scores";
    return outcome;
  }
  const Readable taps(input, kName, {kNeeded.begin(), kNeeded.end()}, {kOfScores.begin(), kOfScores.end()});
  if (!taps.absent().empty()) return taps.unobserved();
  outcome.findings = taps.findings();
  if (!are_readable(input, taps, kNeeded)) {
    outcome.state = record::CheckState::kUnobserved;
    outcome.note = "a rank does not show all that the sums need";
    if (!outcome.findings.empty()) conclude(outcome, "");
    return outcome;
  }
  const bool has_scores = is_linear_in_scores && are_readable(input, taps, kOfScores);
  if (is_linear_in_scores && !has_scores) outcome.note = "not every rank shows grad/scores_TK: weights are judged alone";
  const std::vector<EulerSums> experts = euler_sums(input, has_scores);
  for (Dim e = 0; e < static_cast<Dim>(experts.size()); ++e) judge_expert(input, e, experts[static_cast<std::size_t>(e)], has_scores, outcome);
  keep_worst(outcome.findings);
  const std::string note = outcome.note;
  conclude(outcome, "no expert had a row, or no sum could be bounded; " + note);
  return outcome;
}

MOECHECK_REGISTER_CHECK({kName,
                         {"of each expert, over all tokens and ranks, <W_down, dW_down> = <W_up, dW_up> = sum over its rows of s ds: the layer is "
                          "homogeneous of degree 1 in each (Euler's theorem), so gradients of one loss agree, by the subject's own numbers and "
                          "within the roundings of its own stages",
                          "gradients that are wrong alike; the gate's; up's where it is clamped or shifted; that of s with apply_scores=before_experts; anything "
                          "orthogonal to W",
                          "param/experts, grad/experts, router/scores, grad/scores, row taps", "a backward ran"},
                         run});

}  // namespace
}  // namespace moecheck::check
