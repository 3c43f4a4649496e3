// Proves:       the experts chosen for each token are a top-k of the subject's own logits, and one that the reference's logits
//               admit within their bounds; the scores of a token do not rise from slot to slot, unless they are sigmoids.
// Cannot prove: which of two experts within the bounds is the better one: that is a benign flip, and counted.
// Reads:        router/*      Applies when: a forward ran
#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "harness/check/certificate.h"
#include "harness/check/compare.h"
#include "harness/check/readable.h"
#include "harness/tolerance/bounds.h"

namespace moecheck::check {
namespace {

constexpr std::string_view kName = "routing_ties";
constexpr std::string_view kLogits = "router/logits_TE";
constexpr std::string_view kIds = "router/ids_TK";
constexpr std::string_view kScores = "router/scores_TK";

struct RankCount {
  Dim wrong = 0;
  Dim flips = 0;
  Dim ties = 0;
  Dim first_wrong = -1;
  Certificate why;
  std::string message;
};

void blame(RankCount& count, Dim token, const Certificate& why, std::string message) {
  if (count.wrong++ > 0) return;
  count.first_wrong = token;
  count.why = why;
  count.message = std::move(message);
}

TokenLogits reference_logits(const trace::ExpectedTap& expected, Dim token, base::DType store) {
  TokenLogits logits;
  const Dim experts = expected.value.dim(1);
  const ElementBounds bounds(expected, {.tap = kLogits, .store = store});
  for (Dim i = token * experts; i < (token + 1) * experts; ++i) {
    logits.value.push_back(expected.value.at(i));
    logits.bound.push_back(bounds.at(i));
  }
  return logits;
}

// The first slot whose score is higher than its predecessor's by more than the softmax rounds; 0 if there is none.
// Sigmoids may stand in any order: DeepSeek-V3 does not sort them.
Dim rising_slot(const model::ModelSpec& model, const base::HostTensor* scores_TK, Dim token) {
  if (model.score_function == model::ScoreFunction::kSigmoid) return 0;
  const double slack = 1 + tolerance::softmax_order_slack(model.num_experts);
  for (Dim slot = 1; scores_TK != nullptr && slot < model.top_k; ++slot) {
    const Dim n = token * model.top_k + slot;
    if (scores_TK->at(n) > scores_TK->at(n - 1) * slack) return slot;  // NaN: nonfinite speaks about it
  }
  return 0;
}

void look_at_token(const CheckInput& input, const Readable& taps, Dim rank, Dim token, RankCount& count) {
  const auto& model = input.one.problem.model;
  const base::HostTensor& ids_TK = *taps.get(rank, kIds);
  const base::HostTensor& logits_TE = *taps.get(rank, kLogits);
  const auto chosen = chosen_of(ids_TK, token);
  if (std::ranges::adjacent_find(chosen) != chosen.end() || chosen.front() < 0 || chosen.back() >= model.num_experts)
    return blame(count, token, {}, "the ids are not K different experts");
  // Top-k of the logits themselves has no slack; top-k of their softmax may swap what fp32 cannot tell apart.
  const bool is_softmax_first = model.score_function == model::ScoreFunction::kSoftmaxBeforeTopk;
  const double slack = is_softmax_first ? tolerance::softmax_order_slack(model.num_experts) / 2 : 0;
  TokenLogits own{{}, std::vector<double>(static_cast<std::size_t>(model.num_experts), slack)};
  for (Dim e = 0; e < model.num_experts; ++e) own.value.push_back(logits_TE.at(token * model.num_experts + e));
  const Certificate by_own = certify(as_choice_sees(model, std::move(own)), chosen);
  if (!by_own.is_finite) return;  // nonfinite speaks about these
  count.ties += by_own.is_tied ? 1 : 0;
  if (!by_own.is_admissible)
    return blame(count, token, by_own,
                 fmt::format("expert {} is chosen before expert {}, whose logit is higher", by_own.chosen, by_own.better));
  if (const Dim slot = rising_slot(model, taps.get(rank, kScores), token); slot > 0)
    return blame(count, token, {.chosen = ids_TK.int_at(token * model.top_k + slot)},
                 fmt::format("the score of slot {} is higher than that of the slot before", slot));
  const trace::ExpectedTap* expected = expected_tap(input, rank, kLogits);
  if (expected == nullptr || expected->value.shape() != logits_TE.shape()) return;
  const TokenLogits known = reference_logits(*expected, token, input.one.problem.dtype);
  const TokenLogits reference = as_choice_sees(model, known);
  if (top_k_of(reference.value, chosen.size()) == chosen) return;
  const Certificate by_reference = certify(reference, chosen);
  if (!by_reference.is_finite) return;
  if (by_reference.is_admissible) ++count.flips;
  else blame(count, token, by_reference, fmt::format("expert {} is chosen before expert {}, which no rounding of the logits admits",
                                                     by_reference.chosen, by_reference.better));
}

void report(const CheckInput& input, Dim rank, const RankCount& count, CheckOutcome& outcome) {
  const Dim num_tokens = input.one.problem.num_tokens(rank);
  if (count.wrong > 0) {
    auto finding = make_finding(kName, kIds, rank,
                                fmt::format("{}; {} of {} tokens are routed wrongly", count.message, count.wrong, num_tokens));
    finding.token = input.one.problem.first_token(rank) + count.first_wrong;
    if (count.why.chosen >= 0) finding.expert = count.why.chosen;
    finding.measured = static_cast<double>(count.wrong);
    finding.bound = 0;
    finding.compared = num_tokens;
    outcome.findings.push_back(std::move(finding));
  }
  if (count.flips > 0) {
    auto finding = make_finding(kName, kIds, rank,
                                fmt::format("benign_flip({}): another top-k than the reference's, admitted by the bounds", count.flips));
    finding.cls = record::FindingClass::kBenignFlip;
    finding.measured = static_cast<double>(count.flips);
    finding.compared = num_tokens;
    outcome.findings.push_back(std::move(finding));
  }
}

CheckOutcome run(const CheckInput& input) {
  const Readable taps(input, kName, {kLogits, kIds}, {kScores});
  if (!taps.absent().empty()) return taps.unobserved();
  CheckOutcome outcome;
  outcome.findings = taps.findings();
  Dim ties = 0;
  for (Dim rank = 0; rank < input.one.world_size(); ++rank) {
    if (taps.get(rank, kLogits) == nullptr || taps.get(rank, kIds) == nullptr) continue;
    RankCount count;
    for (Dim token = 0; token < input.one.problem.num_tokens(rank); ++token) look_at_token(input, taps, rank, token, count);
    outcome.compared += input.one.problem.num_tokens(rank);
    ties += count.ties;
    report(input, rank, count, outcome);
  }
  conclude(outcome, "no token was routed");
  // A step moves the router, and its ties with it.
  const bool are_ties_due = input.one.problem.routing == model::Routing::kTies && input.one.step_of(input.batch) == 0;
  if (outcome.state == record::CheckState::kPass && are_ties_due && ties == 0) {
    outcome.state = record::CheckState::kVacuous;
    outcome.note = "routing=ties asks for equal logits at the border of the top-k, and none were equal";
  }
  return outcome;
}

MOECHECK_REGISTER_CHECK({kName,
                         {"the experts chosen for each token are a top-k of the subject's own logits, and one that the reference's "
                          "logits admit within their bounds; the scores of a token do not rise from slot to slot, unless they are sigmoids",
                          "which of two experts within the bounds is the better one: that is a benign flip, and counted",
                          "router/*", "a forward ran"},
                         run});

}  // namespace
}  // namespace moecheck::check
