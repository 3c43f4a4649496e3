// Proves:       taps have the declared shapes and dtypes; a token's experts are K different ones; what the local experts are
//               given pairs scores and ids slot by slot; the ranks of a group together cover each slot once.
// Cannot prove: that the right experts were chosen, or that anything was computed from the pairs.
// Reads:        every tap      Applies when: always
#include <algorithm>
#include <set>

#include <fmt/format.h>

#include "harness/check/readable.h"
#include "harness/check/slot_pairs.h"
#include "harness/trace/tap_points.h"

namespace moecheck::check {
namespace {

constexpr std::string_view kName = "shape_pairing";
constexpr std::string_view kIds = "router/ids_TK";

void look_at_choice(const CheckInput& input, Dim rank, const base::HostTensor& ids_TK, CheckOutcome& outcome) {
  const Dim top_k = ids_TK.dim(1);
  Dim first = -1, count = 0;
  std::string why;
  std::set<Dim> seen;
  for (Dim n = 0; n < ids_TK.numel(); ++n) {
    if (n % top_k == 0) seen.clear();
    const Dim id = ids_TK.int_at(n);
    const bool is_expert = id >= 0 && id < input.one.problem.model.num_experts;
    if ((seen.insert(id).second && is_expert) || ++count > 1) continue;
    first = n;
    why = fmt::format("id {} is {}", id, is_expert ? "chosen twice for one token" : "no expert");
  }
  if (first < 0) return;
  auto finding = make_finding(kName, kIds, rank, fmt::format("{}; {} of the rank's slots are wrong", why, count));
  finding.token = input.one.problem.first_token(rank) + first / top_k;
  finding.slot = first % top_k;
  finding.expert = ids_TK.int_at(first);
  finding.got = ids_TK.at(first);
  finding.measured = static_cast<double>(count);
  finding.compared = ids_TK.numel();
  outcome.findings.push_back(std::move(finding));
}

void look_at_rank(const CheckInput& input, const Readable& taps, Dim rank, CheckOutcome& outcome) {
  const base::HostTensor* ids_TK = taps.get(rank, kIds);
  if (ids_TK == nullptr) return;
  outcome.compared += ids_TK->numel();
  look_at_choice(input, rank, *ids_TK, outcome);
  std::ranges::move(mispaired_slots(input, kName, rank), std::back_inserter(outcome.findings));
}

CheckOutcome run(const CheckInput& input) {
  std::vector<std::string_view> all;
  for (const trace::TapPoint& tap : trace::tap_points()) all.push_back(tap.name);
  all = asked_taps(input, all);
  const Readable taps(input, kName, all);
  if (taps.absent().size() == all.size()) return taps.unobserved();
  CheckOutcome outcome;
  outcome.findings = taps.findings();
  outcome.note = taps.absence_note();
  std::ranges::move(wrong_dtypes(input, kName), std::back_inserter(outcome.findings));
  for (Dim rank = 0; rank < input.one.world_size(); ++rank) look_at_rank(input, taps, rank, outcome);
  if (outcome.findings.empty() && !is_all_to_all(input))
    for (Dim rank = 0; rank < input.one.world_size(); ++rank)
      if (const auto group = input.one.problem.mesh.group(rank, input.one.problem.expert_dims()); group.front() == rank)
        std::ranges::move(uncovered_slots(input, kName, group), std::back_inserter(outcome.findings));
  // A life that only loads shows parameters, whose shapes and dtypes were looked at.
  for (const std::string_view tap : all)
    for (Dim rank = 0; rank < input.one.world_size() && !input.one.has_phase("forward"); ++rank)
      if (taps.get(rank, tap) != nullptr) ++outcome.compared;
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
