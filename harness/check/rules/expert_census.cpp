// Proves:       after load, every row of every expert, of the router and of the attention weight on every rank is the generator's,
//               byte for byte, for the indices that the mesh assigns to that rank; if not, says whose it is.
// Cannot prove: that an expert that no token chose computes correctly.
// Reads:        param/*      Applies when: a phase loads weights
#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "harness/check/misplaced.h"
#include "harness/check/readable.h"

namespace moecheck::check {
namespace {

constexpr std::string_view kName = "expert_census";
constexpr std::string_view kGateUp = "param/experts/gate_up_EGD";
constexpr std::string_view kDown = "param/experts/down_EDF";
constexpr std::array<std::string_view, 2> kPlain = {"param/attention/w_DD", "param/router/w_ED"};
constexpr std::size_t kMaxFindings = 8;

struct Census {
  explicit Census(const CheckInput& of) : input(of), generator(of.one.problem) {}

  const CheckInput& input;
  inputs::Generator generator;
  ExpertScan gate_up{input.one.problem, kGateUp, std::make_unique<GeneratedRows>(generator, kGateUp)};
  ExpertScan down{input.one.problem, kDown, std::make_unique<GeneratedRows>(generator, kDown)};
  CheckOutcome outcome;
};

void report(Census& census, Dim rank, std::string_view tap, const std::vector<Misplaced>& misplaced, std::string_view where) {
  for (const MisplacedGroup& group : group_misplaced(misplaced)) {
    auto finding = make_finding(kName, tap, rank, fmt::format("{} ({})", group.message, where));
    finding.expert = group.first;
    finding.measured = static_cast<double>(group.wrong_rows);
    finding.bound = 0;
    census.outcome.findings.push_back(std::move(finding));
  }
}

void look_at_plain(Census& census, Dim rank, std::string_view tap, const base::HostTensor& local) {
  GeneratedRows rows(census.generator, tap);
  const auto held = trace::declared_indices(census.input.one.problem, tap, rank, 0);
  const auto columns = trace::declared_indices(census.input.one.problem, tap, rank, 1);
  const Columns part{columns.front(), static_cast<Dim>(columns.size())};
  Dim wrong = 0, first = -1;
  for (Dim row = 0; row < local.dim(0); ++row)
    if (const Dim global = held[static_cast<std::size_t>(row)];
        !same_row(row_of_tensor(local, row), rows.bytes(0, global, part)) && wrong++ == 0) first = global;
  census.outcome.compared += local.dim(0);
  if (wrong == 0) return;
  auto finding = make_finding(kName, tap, rank,
                              fmt::format("{} of {} rows are not the generator's, first row {}", wrong, local.dim(0), first));
  if (tap == "param/router/w_ED") finding.expert = first;
  finding.measured = static_cast<double>(wrong);
  finding.bound = 0;
  census.outcome.findings.push_back(std::move(finding));
}

void add_cells(Census& census, Dim rank, bool is_shape_wrong, const std::vector<std::vector<Misplaced>>& tensors) {
  const trace::LocalExperts experts = trace::local_experts(census.input.one.problem, rank);
  for (Dim e = experts.first; e < experts.first + experts.count; ++e) {
    record::ExpertCell cell{rank, e, true, 0, 0, is_shape_wrong ? "another shape" : ""};
    for (const auto& misplaced : tensors)
      for (const Misplaced& one : misplaced) {
        if (one.expert != e) continue;
        cell.wrong_rows += one.wrong_rows;
        if (cell.holds.empty()) cell.holds = one.held.expert >= 0 ? fmt::format("expert {}", one.held.expert) : one.held.detail;
      }
    census.outcome.experts.push_back(std::move(cell));
  }
}

void look_at_rank(Census& census, const Readable& taps, Dim rank) {
  const base::HostTensor* gate_up = taps.get(rank, kGateUp);
  const base::HostTensor* down = taps.get(rank, kDown);
  const auto in_gate_up = gate_up == nullptr ? std::vector<Misplaced>{} : census.gate_up.misplaced(rank, *gate_up);
  const auto in_down = down == nullptr ? std::vector<Misplaced>{} : census.down.misplaced(rank, *down);
  for (const base::HostTensor* local : {gate_up, down})
    if (local != nullptr) census.outcome.compared += local->dim(0) * local->dim(1);
  const auto says_same = [](const Misplaced& a, const Misplaced& b) { return a.expert == b.expert && a.held == b.held; };
  const bool is_same = std::ranges::equal(in_gate_up, in_down, says_same);
  report(census, rank, kGateUp, in_gate_up, is_same ? "gate_up and down" : "gate_up");
  if (!is_same) report(census, rank, kDown, in_down, "down");
  for (const std::string_view tap : kPlain)
    if (const base::HostTensor* local = taps.get(rank, tap)) look_at_plain(census, rank, tap, *local);
  const trace::RankTrace* seen = rank_trace(census.input, rank);
  const auto is_misfit = [&](std::string_view tap) {
    return seen != nullptr && seen->tensor(tap) != nullptr && taps.get(rank, tap) == nullptr;
  };
  const bool is_shape_wrong = is_misfit(kGateUp) || is_misfit(kDown);
  add_cells(census, rank, is_shape_wrong, {in_gate_up, in_down});
}

// A wrong number of experts deserves its own words.
void name_counts(const CheckInput& input, std::vector<record::Finding>& findings) {
  for (record::Finding& finding : findings) {
    const auto* tensor = rank_trace(input, *finding.rank)->tensor(finding.stage);
    const trace::LocalExperts experts = trace::local_experts(input.one.problem, *finding.rank);
    const bool is_experts = finding.stage == kGateUp || finding.stage == kDown;
    if (!is_experts || tensor == nullptr || tensor->shape().empty() || tensor->dim(0) == experts.count) continue;
    finding.message = fmt::format("holds {} experts, declared {} ({}); {}", tensor->dim(0), experts.count,
                                  range_text("expert", experts.first, experts.first + experts.count - 1), finding.message);
    finding.expert = experts.first + std::clamp<Dim>(tensor->dim(0), 0, std::max<Dim>(experts.count - 1, 0));  // the first one without a place
    finding.want = static_cast<double>(experts.count);
    finding.got = static_cast<double>(tensor->dim(0));
  }
}

CheckOutcome run(const CheckInput& input) {
  CheckOutcome none;
  none.note = input.one.first_batch > 0 ? "weights are of a checkpoint: checkpoint_census looks at them"
              : input.batch > 0         ? "weights have been trained"
                                        : "no phase loads weights";
  if (input.batch > 0 || !input.one.has_phase("load")) return none;
  const Readable taps(input, kName, {kGateUp, kDown}, {kPlain.begin(), kPlain.end()});
  if (taps.absent().size() == 2) return taps.unobserved();
  Census census(input);
  census.outcome.findings = taps.findings();
  census.outcome.note = taps.absence_note();
  name_counts(input, census.outcome.findings);
  for (Dim rank = 0; rank < input.one.world_size(); ++rank) look_at_rank(census, taps, rank);
  CheckOutcome& outcome = census.outcome;
  for (record::Finding& finding : outcome.findings) finding.compared = outcome.compared;
  if (outcome.findings.size() > kMaxFindings) {
    outcome.note += fmt::format("{} more findings of the kind", outcome.findings.size() - kMaxFindings);
    outcome.findings.resize(kMaxFindings);
  }
  conclude(outcome, "no rank holds a weight");
  return std::move(outcome);
}

MOECHECK_REGISTER_CHECK({kName,
                         {"after load, every row of every expert, of the router and of the attention weight on every rank is the generator's, "
                          "byte for byte, for the indices that the mesh assigns to that rank; if not, says whose it is",
                          "that an expert that no token chose computes correctly", "param/*", "a phase loads weights"},
                         run});

}  // namespace
}  // namespace moecheck::check
