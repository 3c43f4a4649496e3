// Proves:       tensors that the layout declares replicated are bitwise equal on all ranks of their group.
// Cannot prove: that they are right; all replicas may be wrong together.
// Reads:        param/*, input, router/*, output, grad/*      Applies when: the mesh has more than one rank
#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "harness/check/readable.h"
#include "harness/trace/tap_points.h"

namespace moecheck::check {
namespace {

constexpr std::string_view kName = "replica_agreement";
constexpr std::array<std::string_view, 15> kReplicated = {
    "param/attention/w_DD", "param/router/w_ED",  "param/experts/gate_up_EGD", "param/experts/down_EDF", "input/x_TD",
    "router/logits_TE",     "router/scores_TK",   "router/ids_TK",             "output/y_TD",
    "grad/scores_TK",       "grad/logits_TE",     "grad/x_TD",                "grad/router/w_ED",
    "grad/experts/gate_up_EGD", "grad/experts/down_EDF"};

bool is_weight(std::string_view tap) { return trace::find_tap(tap)->kind == trace::TapKind::kParam; }

std::vector<Dim> group_of(const model::Problem& problem, std::string_view tap, Dim rank) {
  return is_weight(tap) ? replica_group(problem, tap, rank) : token_group(problem.mesh, rank);
}

std::int64_t first_difference(const base::HostTensor& a, const base::HostTensor& b) {
  const auto [in_a, in_b] = std::ranges::mismatch(a.bytes(), b.bytes());
  return (in_a - a.bytes().begin()) / static_cast<std::ptrdiff_t>(base::itemsize(a.dtype()));
}

record::Finding disagreement(const CheckInput& input, std::string_view tap, Dim rank, Dim with) {
  const base::HostTensor& got = *rank_trace(input, rank)->tensor(tap);
  const base::HostTensor& other = *rank_trace(input, with)->tensor(tap);
  auto finding = make_finding(kName, tap, rank, fmt::format("differs from its replica on rank {}", with));
  if (got.dtype() != other.dtype() || got.shape() != other.shape()) {
    finding.message = fmt::format("is {} {}, its replica on rank {} is {} {}", base::knob_name(got.dtype()),
                                  base::shape_text(got.shape()), with, base::knob_name(other.dtype()), base::shape_text(other.shape()));
    return finding;
  }
  if (got.shape().empty()) return finding;
  const std::int64_t at = first_difference(got, other);
  const std::int64_t columns = got.numel() / got.dim(0);
  finding.want = other.at(at);
  finding.got = got.at(at);
  finding.compared = got.numel();
  finding.message += fmt::format(", first in row {}, element {} of it", at / columns, at % columns);
  if (!is_weight(tap)) finding.token = input.one.problem.first_token(rank) + at / columns;
  if (tap == "router/logits_TE" || tap.ends_with("router/w_ED"))
    finding.expert = tap == "router/logits_TE" ? at % columns : at / columns;
  if (is_weight(tap) && tap.find("/experts/") != std::string_view::npos) finding.expert = local_experts(input.one.problem, rank).first + at / columns;
  return finding;
}

// The rank that the others are held against: the first that agrees with another one, so that one odd rank is the one named.
Dim yardstick(const CheckInput& input, std::string_view tap, const std::vector<Dim>& shown) {
  for (const Dim candidate : shown)
    for (const Dim other : shown)
      if (other != candidate && base::same_bytes(*rank_trace(input, candidate)->tensor(tap), *rank_trace(input, other)->tensor(tap)))
        return candidate;
  return shown.front();
}

void compare_group(const CheckInput& input, std::string_view tap, const std::vector<Dim>& group, CheckOutcome& outcome) {
  std::vector<Dim> shown;
  for (const Dim rank : group)
    if (rank_trace(input, rank) != nullptr && rank_trace(input, rank)->tensor(tap) != nullptr) shown.push_back(rank);
  if (shown.size() < 2) return;
  const Dim with = yardstick(input, tap, shown);
  for (const Dim rank : shown) {
    if (rank == with) continue;
    const base::HostTensor& got = *rank_trace(input, rank)->tensor(tap);
    outcome.compared += got.numel();
    if (!base::same_bytes(got, *rank_trace(input, with)->tensor(tap)))
      outcome.findings.push_back(disagreement(input, tap, rank, with));
  }
}

CheckOutcome run(const CheckInput& input) {
  CheckOutcome outcome;
  const model::Problem& problem = input.one.problem;
  if (input.one.world_size() == 1) {
    outcome.note = "one rank has no replicas";
    return outcome;
  }
  const std::vector<std::string_view> asked = taps_of_phases(input.one, kReplicated);
  const Readable taps(input, kName, asked);
  if (taps.absent().size() == asked.size()) return taps.unobserved();
  outcome.findings = taps.findings();
  outcome.note = taps.absence_note();
  for (const std::string_view tap : asked)
    for (Dim rank = 0; rank < input.one.world_size(); ++rank)
      if (const auto group = group_of(problem, tap, rank); group.front() == rank) compare_group(input, tap, group, outcome);
  conclude(outcome, "no tensor is replicated over ranks that hold anything");
  return outcome;
}

MOECHECK_REGISTER_CHECK({kName,
                         {"tensors that the layout declares replicated are bitwise equal on all ranks of their group",
                          "that they are right; all replicas may be wrong together",
                          "param/*, input, router/*, output, grad/*", "the mesh has more than one rank"},
                         run});

}  // namespace
}  // namespace moecheck::check
