// Proves:       tensors that the layout declares replicated are bitwise equal on all ranks of their group.
// Cannot prove: that they are right; all replicas may be wrong together.
// Reads:        param/*, input, router/*, output, grad/*, optim/*, state/*      Applies when: a tensor is replicated over several ranks
#include <algorithm>
#include <numeric>

#include <fmt/format.h>

#include "harness/check/place.h"
#include "harness/check/readable.h"
#include "harness/trace/tap_points.h"

namespace moecheck::check {
namespace {

constexpr std::string_view kName = "replica_agreement";
constexpr std::string_view kGathered = "dispatch/tokens_S";

// What lies as a parameter does, what every token has of its own, what all ranks have of the optimizer and of where the training
// stands. Not: rows, what a rank is given for its local experts, and partial results.
bool is_replicated(const trace::TapPoint& tap) {
  if (tap.kind == trace::TapKind::kTokens && tap.dims.starts_with("T")) return true;
  return tap.kind == trace::TapKind::kParam || (tap.kind == trace::TapKind::kCounts && tap.phase == "step") || tap.name == kGathered;
}

// Ranks between which the tokens are gathered.
std::vector<Dim> gather_group(const model::Problem& problem, Dim rank) {
  const bool over_ep = problem.shards_tokens("ep"), over_tp = problem.shards_tokens("tp");
  if (over_ep && over_tp) return problem.layer_group(rank);
  return over_ep ? problem.mesh.group(rank, "ep") : over_tp ? problem.mesh.group(rank, "tp") : trace::token_group(problem, rank);
}

std::vector<Dim> group_of(const model::Problem& problem, std::string_view tap, Dim rank) {
  const trace::TapKind kind = trace::find_tap(tap)->kind;
  if (kind == trace::TapKind::kParam) return trace::replica_group(problem, tap, rank);
  if (kind == trace::TapKind::kTokens) return tap == kGathered ? gather_group(problem, rank) : trace::token_group(problem, rank);
  std::vector<Dim> all(static_cast<std::size_t>(problem.mesh.world_size()));
  std::iota(all.begin(), all.end(), Dim{0});
  return all;
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
  set_place(input, tap, at / columns, finding);
  if (tap == "router/logits_TE") finding.expert = at % columns;
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
  std::vector<std::string_view> asked;
  for (const trace::TapPoint& tap : trace::tap_points())
    if (is_replicated(tap)) asked.push_back(tap.name);
  asked = asked_taps(input, asked);
  const Readable taps(input, kName, asked);
  if (taps.absent().size() == asked.size()) return taps.unobserved();
  outcome.findings = taps.findings();
  outcome.note = taps.absence_note();
  bool has_replicas = false;
  for (const std::string_view tap : asked)
    for (Dim rank = 0; rank < input.one.world_size(); ++rank) {
      const auto group = group_of(problem, tap, rank);
      has_replicas = has_replicas || group.size() > 1;
      if (*std::ranges::min_element(group) == rank) compare_group(input, tap, group, outcome);
    }
  if (!has_replicas && outcome.findings.empty()) {
    outcome.note = "every tensor is sharded over all ranks";
    return outcome;
  }
  conclude(outcome, "no tensor is replicated over ranks that hold anything");
  return outcome;
}

MOECHECK_REGISTER_CHECK({kName,
                         {"tensors that the layout declares replicated are bitwise equal on all ranks of their group",
                          "that they are right; all replicas may be wrong together",
                          "param/*, input, router/*, output, grad/*, optim/*, state/*", "a tensor is replicated over several ranks"},
                         run});

}  // namespace
}  // namespace moecheck::check
