// Proves:       every rank says of every parameter that it lies as the mesh declares, and its local shape is what that leaves;
//               gradients and optimizer state lie as their parameters; each entry of a parallel plan took hold of a parameter,
//               and nothing is sharded that no entry names.
// Cannot prove: that the rank holds the right part of its bytes (expert_census); that a plan is there if no rank shows one.
// Reads:        param/*, grad/*, optim/*, placements, plan      Applies when: a phase loads
#include <algorithm>
#include <set>

#include <fmt/format.h>

#include "harness/check/claimed_layout.h"
#include "harness/check/readable.h"
#include "harness/trace/tap_points.h"

namespace moecheck::check {
namespace {

using trace::RankTrace;
using trace::Tapped;

constexpr std::string_view kName = "placement";
constexpr std::string_view kPhase = "load";

bool is_parameter(std::string_view tap) { return trace::find_tap(tap) != nullptr && trace::find_tap(tap)->phase == kPhase; }

struct Tally {
  const CheckInput& input;
  CheckOutcome outcome = {};
  bool is_anything_sharded = false;

  const model::Problem& problem() const { return input.one.problem; }
  Layout layout(std::span<const model::Cut> cuts) const { return layout_of(cuts, problem().mesh); }
  bool is_small(std::string_view tap, const Tapped& tapped) const {
    return tapped.tensor.numel() < base::num_elements(trace::global_param_shape(problem().model, tap));
  }
};

void report(Tally& tally, std::string_view stage, Dim rank, std::string message, std::string hypothesis = "") {
  auto finding = make_finding(kName, stage, rank, std::move(message));
  finding.cls = record::FindingClass::kContract;
  finding.hypothesis = std::move(hypothesis);
  tally.outcome.findings.push_back(std::move(finding));
}

void look_at_parameter(Tally& tally, Dim rank, std::string_view tap, const Tapped& tapped) {
  const auto declared = trace::declared_cuts(tally.problem(), tap);
  const base::Shape global = trace::global_param_shape(tally.problem().model, tap);
  const Layout claims = tally.layout(tapped.cuts), wants = tally.layout(declared);
  ++tally.outcome.compared;
  tally.is_anything_sharded = tally.is_anything_sharded || !claims.empty() || tally.is_small(tap, tapped);
  if (claims != wants)
    report(tally, tap, rank, fmt::format("lies as {}, declared {} by the mesh {}", model::text(tapped.cuts), model::text(declared),
                                         tally.problem().mesh.text()), difference(claims, wants));
  if (tapped.global_shape != global)
    report(tally, tap, rank,
           fmt::format("is said to be a part of {}, declared {}", base::shape_text(tapped.global_shape), base::shape_text(global)));
  else if (const std::string misfit = shape_misfit(tally.problem().mesh, rank, tapped); !misfit.empty())
    report(tally, tap, rank, misfit);
}

// A gradient or a state lies as its parameter does.
void look_at_follower(Tally& tally, const RankTrace& rank, std::string_view tap, const Tapped& tapped) {
  const Tapped* parameter = rank.find(trace::parameter_of(tap));
  const auto leads = parameter == nullptr ? trace::declared_cuts(tally.problem(), tap) : parameter->cuts;
  ++tally.outcome.compared;
  if (tally.layout(tapped.cuts) != tally.layout(leads))
    report(tally, tap, rank.rank, fmt::format("lies as {}, its parameter as {}", model::text(tapped.cuts), model::text(leads)));
}

void look_at_planned(Tally& tally, const RankTrace& rank, const trace::PlanEntry& entry, std::string_view tap) {
  const Layout wants = tally.layout(entry.cuts), claims = tally.layout(rank.find(tap)->cuts);
  ++tally.outcome.compared;
  const bool is_claimed = std::ranges::includes(claims, wants);
  if (wants.empty() || (is_claimed && tally.is_small(tap, *rank.find(tap)))) return;
  report(tally, tap, rank.rank, fmt::format("planned {} by {} ({}), {}", model::text(entry.cuts), entry.pattern, entry.style,
                                            is_claimed ? "not sharded: it is whole on this rank" : "not sharded so: it lies as " +
                                            model::text(rank.find(tap)->cuts)));
}

void look_at_plan(Tally& tally, const RankTrace& rank) {
  std::set<std::string_view> named;
  for (const trace::PlanEntry& entry : rank.plan) {
    ++tally.outcome.compared;
    if (entry.cuts.empty()) continue;
    if (entry.parameters.empty())
      report(tally, kPhase, rank.rank, fmt::format("plan entry {} ({}) has no effect: it matched no parameter", entry.pattern, entry.style));
    named.insert(entry.parameters.begin(), entry.parameters.end());
    for (const std::string& tap : entry.parameters)
      if (is_parameter(tap) && rank.find(tap) != nullptr) look_at_planned(tally, rank, entry, tap);
  }
  // Wrapping in fsdp takes every parameter, and needs no entry.
  const auto is_planned_cut = [](const auto& cut) { return !cut.first.starts_with("fsdp"); };
  for (const auto& [tap, tapped] : rank.taps) {
    if (!is_parameter(tap) || named.contains(tap)) continue;
    const Layout claims = tally.layout(tapped.cuts);
    if (std::ranges::any_of(claims, is_planned_cut) || (claims.empty() && tally.is_small(tap, tapped)))
      report(tally, tap, rank.rank, "sharded without a plan entry");
  }
}

void look_at_plans(Tally& tally) {
  const auto& ranks = tally.input.observed.ranks;
  const auto shown = std::ranges::find_if(ranks, [](const RankTrace& rank) { return !rank.plan.empty(); });
  if (shown == ranks.end()) {
    tally.outcome.note = "no rank shows a plan: what it should have sharded is not judged";
    return;
  }
  for (const RankTrace& rank : ranks) {
    if (rank.taps.empty()) continue;   // it did not get that far
    look_at_plan(tally, rank);
    if (rank.plan != shown->plan) report(tally, kPhase, rank.rank, fmt::format("the plan is not that of rank {}", shown->rank));
  }
}

CheckOutcome run(const CheckInput& input) {
  Tally tally{input};
  if (!input.one.has_phase(kPhase)) return std::move(tally.outcome);
  for (const RankTrace& rank : input.observed.ranks)
    for (const auto& [tap, tapped] : rank.taps) {
      if (trace::find_tap(tap) == nullptr || trace::find_tap(tap)->kind != trace::TapKind::kParam) continue;
      if (!is_parameter(tap)) look_at_follower(tally, rank, tap, tapped);
      else if (input.one.is_first(input.batch)) look_at_parameter(tally, rank.rank, tap, tapped);
    }
  if (tally.outcome.compared == 0) {
    tally.outcome.state = record::CheckState::kUnobserved;
    tally.outcome.note = "no rank shows a parameter";
    return std::move(tally.outcome);
  }
  if (input.one.is_first(input.batch)) look_at_plans(tally);
  const bool should_shard = input.one.is_first(input.batch) && input.one.problem.mesh.size("ep,tp,fsdp") > 1;
  if (should_shard && !tally.is_anything_sharded) tally.outcome.compared = 0;
  conclude(tally.outcome, "the layout sharded nothing");
  return std::move(tally.outcome);
}

MOECHECK_REGISTER_CHECK({kName,
                         {"every rank says of every parameter that it lies as the mesh declares, and its local shape is what that leaves; "
                          "gradients and optimizer state lie as their parameters; each entry of a parallel plan took hold of a parameter, "
                          "and nothing is sharded that no entry names",
                          "that the rank holds the right part of its bytes (expert_census); that a plan is there if no rank shows one",
                          "param/*, grad/*, optim/*, placements, plan", "a phase loads"},
                         run});

}  // namespace
}  // namespace moecheck::check
