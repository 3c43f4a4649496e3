// Proves:       the data cursor counts the batches taken, the learning rate of the next step is the schedule's, and the counter of
//               routed rows is that of all router choices so far, on every rank, across a load too.
// Cannot prove: that the next batch's tokens are those that the cursor names (stage_diff: input), or that the rate is used (optimizer).
// Reads:        state/*, router/ids_TK      Applies when: a step ends with the batch
#include <algorithm>

#include <fmt/format.h>

#include "harness/check/readable.h"

namespace moecheck::check {
namespace {

constexpr std::string_view kName = "training_state";
constexpr std::string_view kBatches = "state/batches_1";
constexpr std::string_view kRate = "state/lr_1";
constexpr std::string_view kTokens = "state/tokens_E";
constexpr std::string_view kIds = "router/ids_TK";

void report(std::string_view tap, Dim rank, double got, double want, std::string message, CheckOutcome& outcome) {
  outcome.findings.push_back(make_finding(kName, tap, rank, std::move(message)));
  outcome.findings.back().got = got;
  outcome.findings.back().want = want;
}

using Counts = std::vector<Dim>;   // by expert

// Rows that one batch routes, each token counted on one rank. False: a rank does not show its choices.
bool add_choices(const cases::Case& one, const trace::Trace& batch, Counts& counts) {
  if (batch.ranks.empty()) return false;
  for (const trace::RankTrace& rank : batch.ranks) {
    if (trace::token_group(one.problem, rank.rank).front() != rank.rank) continue;
    const base::HostTensor* ids_TK = rank.tensor(kIds);
    if (ids_TK == nullptr || !misfit(one.problem, kIds, rank, *ids_TK).empty()) return false;
    for (Dim i = 0; i < ids_TK->numel(); ++i)
      if (const Dim expert = ids_TK->int_at(i); expert >= 0 && expert < one.problem.model.num_experts) ++counts[static_cast<std::size_t>(expert)];
  }
  return true;
}

// What the load brought; false: it does not show it.
bool add_loaded(const cases::Case& one, const trace::Trace& loaded, Counts& counts) {
  for (const trace::RankTrace& rank : loaded.ranks) {
    const base::HostTensor* tokens_E = rank.tensor(kTokens);
    if (tokens_E == nullptr || !misfit(one.problem, kTokens, rank, *tokens_E).empty()) continue;
    for (std::size_t e = 0; e < counts.size(); ++e) counts[e] += tokens_E->int_at(static_cast<Dim>(e));
    return true;
  }
  return false;
}

// Empty if not all batches show their choices.
Counts counts_so_far(const CheckInput& input) {
  const cases::Case& one = input.one;
  Counts counts(static_cast<std::size_t>(one.problem.model.num_experts), 0);
  const auto first = static_cast<std::size_t>(one.first_batch);
  bool is_known = add_choices(one, input.observed, counts);
  if (first > 0) is_known = is_known && first <= input.earlier.size() && add_loaded(one, input.earlier[first - 1], counts);
  for (std::size_t b = first; b < input.earlier.size(); ++b) is_known = is_known && add_choices(one, input.earlier[b], counts);
  return is_known ? counts : Counts{};
}

void look_at_counts(Dim rank, const base::HostTensor& got_E, const Counts& want, CheckOutcome& outcome) {
  outcome.compared += got_E.numel();
  Dim wrong = 0, first = -1;
  for (Dim e = 0; e < got_E.numel(); ++e)
    if (got_E.int_at(e) != want[static_cast<std::size_t>(e)] && wrong++ == 0) first = e;
  if (wrong == 0) return;
  const Dim due = want[static_cast<std::size_t>(first)];
  report(kTokens, rank, got_E.at(first), static_cast<double>(due),
         fmt::format("{} of {} counters are wrong: expert {} has {} rows, routed so far {}", wrong, got_E.numel(), first, got_E.int_at(first), due), outcome);
  outcome.findings.back().expert = first;
}

void look_at_rank(const CheckInput& input, const Readable& taps, Dim rank, const Counts& counts, CheckOutcome& outcome) {
  if (const base::HostTensor* batches = taps.get(rank, kBatches)) {
    ++outcome.compared;
    if (const Dim got = batches->int_at(0), want = input.batch + 1; got != want)
      report(kBatches, rank, static_cast<double>(got), static_cast<double>(want), fmt::format("{} batches taken, declared {}", got, want), outcome);
  }
  if (const base::HostTensor* rate = taps.get(rank, kRate)) {
    ++outcome.compared;
    const double want = input.one.learning_rate_of(input.one.step_of(input.batch) + 1);
    if (rate->at(0) != want)
      report(kRate, rank, rate->at(0), want, fmt::format("the next step's learning rate is {:.17g}, the schedule's {:.17g}", rate->at(0), want), outcome);
  }
  const base::HostTensor* tokens_E = taps.get(rank, kTokens);
  if (tokens_E != nullptr && !counts.empty()) look_at_counts(rank, *tokens_E, counts, outcome);
}

CheckOutcome run(const CheckInput& input) {
  CheckOutcome outcome;
  if (!input.one.ends_step(input.batch)) {
    outcome.note = "no step ends here";
    return outcome;
  }
  const Readable taps(input, kName, {kBatches, kRate, kTokens});
  if (taps.absent().size() == 3) return taps.unobserved();
  outcome.findings = taps.findings();
  outcome.note = taps.absence_note();
  const Counts counts = counts_so_far(input);
  if (counts.empty()) outcome.note += fmt::format("{}{} not judged: not every batch shows its routing", outcome.note.empty() ? "" : "; ", kTokens);
  for (Dim rank = 0; rank < input.one.world_size(); ++rank) look_at_rank(input, taps, rank, counts, outcome);
  conclude(outcome, "no rank shows a readable state");
  return outcome;
}

MOECHECK_REGISTER_CHECK({.name = kName,
                         .doc = {"the data cursor counts the batches taken, the learning rate of the next step is the schedule's, and the "
                                 "counter of routed rows is that of all router choices so far, on every rank, across a load too",
                                 "that the next batch's tokens are those that the cursor names (stage_diff: input), or that the rate is used "
                                 "(optimizer)",
                                 "state/*, router/ids_TK", "a step ends with the batch"},
                         .run = run});

}  // namespace
}  // namespace moecheck::check
