// Proves:       taps have the declared shapes and dtypes; a token's experts are K different ones; what the local experts are
//               given pairs scores and ids slot by slot; the ranks of a group together cover each slot once.
// Cannot prove: that the right experts were chosen, or that anything was computed from the pairs.
// Reads:        every tap      Applies when: always
#include <algorithm>
#include <set>

#include <fmt/format.h>

#include "harness/check/compare.h"
#include "harness/check/readable.h"
#include "harness/trace/tap_points.h"

namespace moecheck::check {
namespace {

constexpr std::string_view kName = "shape_pairing";
constexpr std::string_view kScores = "router/scores_TK";
constexpr std::string_view kIds = "router/ids_TK";
constexpr std::string_view kLocalScores = "dispatch/scores_TK";
constexpr std::string_view kLocalIds = "dispatch/ids_TK";

struct Slot {
  Dim n = -1;  // token * K + slot; -1: none
  std::string why;
  double want = 0, got = 0;
};

void report(const CheckInput& input, std::string_view tap, Dim rank, const Slot& first, Dim count, CheckOutcome& outcome) {
  if (first.n < 0) return;
  const Dim top_k = input.one.problem.model.top_k;
  auto finding = make_finding(kName, tap, rank, fmt::format("{}; {} of the rank's slots are wrong", first.why, count));
  finding.token = input.one.problem.first_token(rank) + first.n / top_k;
  finding.slot = first.n % top_k;
  finding.expert = rank_trace(input, rank)->tensor(kIds)->int_at(first.n);
  finding.want = first.want;
  finding.got = first.got;
  finding.measured = static_cast<double>(count);
  finding.compared = input.one.problem.num_tokens(rank) * top_k;
  outcome.findings.push_back(std::move(finding));
}

void look_at_choice(const CheckInput& input, Dim rank, const base::HostTensor& ids_TK, CheckOutcome& outcome) {
  Slot first;
  Dim count = 0;
  std::set<Dim> seen;
  for (Dim n = 0; n < ids_TK.numel(); ++n) {
    if (n % ids_TK.dim(1) == 0) seen.clear();
    const Dim id = ids_TK.int_at(n);
    const bool is_expert = id >= 0 && id < input.one.problem.model.num_experts;
    if ((seen.insert(id).second && is_expert) || ++count > 1) continue;
    first = {n, fmt::format("id {} is {}", id, is_expert ? "chosen twice for one token" : "no expert"), 0.0,
             static_cast<double>(id)};
  }
  report(input, kIds, rank, first, count, outcome);
}

// The pairs that an experts forward forms when it flattens scores and ids, whatever the shape of the scores.
void look_at_scores(const CheckInput& input, Dim rank, const base::HostTensor& ids_TK, const base::HostTensor& scores_TK,
                    const base::HostTensor& given, CheckOutcome& outcome) {
  const LocalExperts local = local_experts(input.one.problem, rank);
  Slot first;
  Dim count = 0;
  for (Dim n = 0; n < ids_TK.numel(); ++n) {
    const bool is_local = local.has(ids_TK.int_at(n));
    const bool is_there = n < given.numel();
    if (is_there && (is_local ? same_element_bits(scores_TK, given, n) : given.at(n) == 0)) continue;
    if (++count > 1) continue;
    first = {n,
             is_local ? "the score of a local expert is not the router's" : "the slot of an expert that lives elsewhere has a score",
             is_local ? scores_TK.at(n) : 0.0, is_there ? given.at(n) : 0.0};
  }
  if (given.shape() != scores_TK.shape() && first.n >= 0)
    first.why = fmt::format("scores {} beside ids {}: flattened, a score meets another slot's expert", base::shape_text(given.shape()),
                            base::shape_text(ids_TK.shape()));
  report(input, kLocalScores, rank, first, count, outcome);
}

void look_at_local_ids(const CheckInput& input, Dim rank, const base::HostTensor& ids_TK, const base::HostTensor& given,
                       CheckOutcome& outcome) {
  const LocalExperts local = local_experts(input.one.problem, rank);
  Slot first;
  Dim count = 0;
  for (Dim n = 0; n < ids_TK.numel(); ++n) {
    const Dim want = local.has(ids_TK.int_at(n)) ? ids_TK.int_at(n) - local.first : local.count;
    const Dim got = given.int_at(n);
    if (got == want || ++count > 1) continue;
    first = {n, fmt::format("local id {}, declared {} ({})", got, want, want == local.count ? "the sentinel" : "local"),
             static_cast<double>(want), static_cast<double>(got)};
  }
  report(input, kLocalIds, rank, first, count, outcome);
}

void look_at_cover(const CheckInput& input, const Readable& taps, const std::vector<Dim>& group, CheckOutcome& outcome) {
  const model::Problem& problem = input.one.problem;
  std::vector<int> owners(static_cast<std::size_t>(problem.num_tokens(group.front()) * problem.model.top_k), 0);
  for (const Dim rank : group) {
    const base::HostTensor* given = taps.get(rank, kLocalIds);
    if (given == nullptr || taps.get(rank, kIds) == nullptr) return;
    for (std::size_t n = 0; n < owners.size(); ++n)
      if (given->int_at(static_cast<Dim>(n)) < local_experts(problem, rank).count) ++owners[n];
  }
  Slot first;
  Dim count = 0;
  for (std::size_t n = 0; n < owners.size(); ++n)
    if (owners[n] != 1 && ++count == 1)
      first = {static_cast<Dim>(n), fmt::format("{} ranks take the slot, declared 1", owners[n]), 1.0, static_cast<double>(owners[n])};
  report(input, kLocalIds, group.front(), first, count, outcome);
}

CheckOutcome run(const CheckInput& input) {
  std::vector<std::string_view> all;
  for (const trace::TapPoint& tap : trace::tap_points()) all.push_back(tap.name);
  const Readable taps(input, kName, all);
  if (taps.absent().size() == all.size()) return taps.unobserved();
  CheckOutcome outcome;
  outcome.findings = taps.findings();
  outcome.note = taps.absence_note();
  std::ranges::move(wrong_dtypes(input, kName), std::back_inserter(outcome.findings));
  for (Dim rank = 0; rank < input.one.world_size(); ++rank) {
    const base::HostTensor* ids_TK = taps.get(rank, kIds);
    if (ids_TK == nullptr) continue;
    outcome.compared += ids_TK->numel();
    look_at_choice(input, rank, *ids_TK, outcome);
    const base::HostTensor* given = rank_trace(input, rank)->tensor(kLocalScores);
    if (const auto* scores_TK = taps.get(rank, kScores); scores_TK != nullptr && given != nullptr)
      look_at_scores(input, rank, *ids_TK, *scores_TK, *given, outcome);
    if (const auto* local_ids = taps.get(rank, kLocalIds)) look_at_local_ids(input, rank, *ids_TK, *local_ids, outcome);
  }
  if (outcome.findings.empty())
    for (Dim rank = 0; rank < input.one.world_size(); ++rank)
      if (const auto group = input.one.problem.mesh.group(rank, "ep"); group.front() == rank)
        look_at_cover(input, taps, group, outcome);
  const bool is_routing_absent = std::ranges::find(taps.absent(), kIds) != taps.absent().end();
  if (is_routing_absent && outcome.findings.empty()) return taps.unobserved();
  conclude(outcome, "no token was routed");
  return outcome;
}

MOECHECK_REGISTER_CHECK({kName,
                         {"taps have the declared shapes and dtypes; a token's experts are K different ones; what the local experts are given "
                          "pairs scores and ids slot by slot; the ranks of a group together cover each slot once",
                          "that the right experts were chosen, or that anything was computed from the pairs", "every tap", "always"},
                         run});

}  // namespace
}  // namespace moecheck::check
