// Proves:       every stage on every rank is, element by element, within its hard bound of the reference, which is fed with the
//               subject's own inputs and routing of that stage; with values=exact, equal, and the layer's output too.
// Cannot prove: anything about an error smaller than the bound, or about a stage whose inputs are not shown.
// Reads:        input, router, experts, combine, output, grad/* of tokens and rows      Applies when: a forward ran
#include <algorithm>
#include <cmath>
#include <limits>

#include <fmt/format.h>

#include "harness/check/compare.h"
#include "harness/check/hypothesis.h"
#include "harness/check/place.h"
#include "harness/check/readable.h"
#include "harness/tolerance/bounds.h"
#include "harness/trace/tap_points.h"

namespace moecheck::check {
namespace {

constexpr std::string_view kName = "stage_diff";
constexpr std::string_view kOutput = "output/y_TD";
constexpr std::string_view kEndToEnd = "end_to_end";

struct Tally {
  CheckOutcome outcome;
  bool all_zero = true;
};

// What gradient_parity judges, gradients after all reductions, and what optimizer does.
bool is_judged_elsewhere(const trace::TapPoint& tap) {
  return tap.kind == trace::TapKind::kParam || tap.phase == "step" || tap.name == "grad/scores_TK" || tap.name == "grad/x_TD";
}

// Token, slot and expert of an element.
void place(const CheckInput& input, Dim rank, std::string_view tap, const base::HostTensor& got, Dim at, record::Finding& finding) {
  const Dim columns = got.numel() / got.dim(0);
  set_place(input, tap, at / columns, finding);
  if (tap.ends_with("logits_TE")) finding.expert = at % columns;
  if (!tap.ends_with("scores_TK")) return;
  finding.slot = at % columns;
  if (const auto* ids = fitting_tensor(input, rank, "router/ids_TK"); ids != nullptr && ids->shape() == got.shape()) finding.expert = ids->int_at(at);
}

void report(const CheckInput& input, Dim rank, std::string_view tap, const trace::ExpectedTap& expected, const Comparison& c,
            CheckOutcome& outcome) {
  const base::HostTensor& got = *rank_trace(input, rank)->tensor(tap);
  auto finding = make_finding(kName, tap, rank, fmt::format("{} of {} rows over the bound ({} of {} elements)", c.rows_over,
                                                            c.num_rows, c.elements_over, c.compared));
  place(input, rank, tap, got, c.worst, finding);
  set_figures(c, finding);
  finding.hypothesis = hypothesis_for(input, {tap, rank, c.worst / (got.numel() / got.dim(0)), got, expected});
  outcome.findings.push_back(std::move(finding));
}

void look_at(const CheckInput& input, Dim rank, std::string_view tap, const trace::ExpectedTap& expected, Tally& tally) {
  const base::HostTensor* got = rank_trace(input, rank) == nullptr ? nullptr : rank_trace(input, rank)->tensor(tap);
  if (got == nullptr || !base::is_floating(got->dtype())) return;  // missing ones are findings already
  if (got->shape() != expected.value.shape()) {
    tally.outcome.findings.push_back(make_finding(
        kName, tap, rank,
        fmt::format("shape {}, the reference expects {}", base::shape_text(got->shape()), base::shape_text(expected.value.shape()))));
    return;
  }
  const bool is_exact_here = is_exact(input);
  // The forward is exact by construction; gradients are where their sums happen to fit the dtype.
  const double unit = is_exact_here && tap.starts_with("grad/") ? unit_of(expected) : 0;
  const Comparison c = compare_tap(*got, expected, {.tap = tap, .store = store_of(input.one, tap), .is_exact = is_exact_here, .exact_unit = unit});
  tally.outcome.compared += c.compared;
  tally.all_zero = tally.all_zero && c.all_zero;
  tally.outcome.stages.push_back({std::string(tap), rank, c.measured, c.bound, c.used, c.compared});
  if (c.elements_over > 0) report(input, rank, tap, expected, c, tally.outcome);
}

// Against the whole layer from generated inputs. Exact values: equality is demanded. Otherwise errors of the stages compound and
// no hard bound is worth having: the relative error is shown and judges nothing.
void look_at_whole(const CheckInput& input, Dim rank, Tally& tally) {
  if (rank >= static_cast<Dim>(input.expected.ranks.size()) || rank_trace(input, rank) == nullptr) return;
  const base::HostTensor& want_TD = input.expected.ranks[static_cast<std::size_t>(rank)].end_to_end_TD;
  const base::HostTensor* y_TD = rank_trace(input, rank)->tensor(kOutput);
  if (y_TD == nullptr || want_TD.numel() == 0 || y_TD->shape() != want_TD.shape()) return;
  trace::ExpectedTap expected;
  expected.value = want_TD;
  expected.magnitude = want_TD;
  const Comparison c = compare_tap(*y_TD, expected, {.tap = kOutput, .store = input.one.problem.dtype, .is_exact = true});
  if (is_exact(input)) {
    tally.outcome.stages.push_back({std::string(kEndToEnd), rank, c.measured, c.bound, c.used, c.compared});
    if (c.elements_over == 0) return;
    report(input, rank, kOutput, expected, c, tally.outcome);
    tally.outcome.findings.back().tensor = kEndToEnd;
    tally.outcome.findings.back().message += " against the whole layer computed from generated inputs, where every sum is exact";
    return;
  }
  double error = 0, size = 0;
  for (Dim i = 0; i < want_TD.numel(); ++i) {
    error += (y_TD->at(i) - want_TD.at(i)) * (y_TD->at(i) - want_TD.at(i));
    size += want_TD.at(i) * want_TD.at(i);
  }
  tally.outcome.stages.push_back({std::string(kEndToEnd), rank, size > 0 ? std::sqrt(error / size) : 0, 0, 0, want_TD.numel()});
}

CheckOutcome run(const CheckInput& input) {
  std::vector<std::string_view> staged;
  for (const trace::TapPoint& tap : trace::tap_points())
    if (tolerance::stage_of_tap(tap.name) && !is_judged_elsewhere(tap)) staged.push_back(tap.name);
  staged = asked_taps(input, staged);
  const Readable taps(input, kName, staged, {"dispatch/rows_R3"});
  if (staged.empty() || taps.absent().size() == staged.size()) return taps.unobserved();
  Tally tally;
  tally.outcome.findings = taps.findings();
  tally.outcome.note = taps.absence_note();
  for (const std::string_view tap : staged)
    for (Dim rank = 0; rank < input.one.world_size(); ++rank)
      if (const auto* expected = expected_tap(input, rank, tap)) look_at(input, rank, tap, *expected, tally);
      else if (taps.get(rank, tap) != nullptr && whole_tap(input, rank, tap) == nullptr)
        tally.outcome.note += fmt::format("; {} of rank {} not judged: its inputs are missing", tap, rank);
  for (Dim rank = 0; rank < input.one.world_size(); ++rank) look_at_whole(input, rank, tally);
  if (tally.all_zero) tally.outcome.compared = 0;
  conclude(tally.outcome, "nothing but zeros was compared, or nothing at all");
  return std::move(tally.outcome);
}

MOECHECK_REGISTER_CHECK({kName,
                         {"every stage on every rank is, element by element, within its hard bound of the reference, which is fed with the "
                          "subject's own inputs and routing of that stage; with values=exact, equal, and the layer's output too",
                          "anything about an error smaller than the bound, or about a stage whose inputs are not shown",
                          "input, router, experts, combine, output, grad/* of tokens and rows", "a forward ran"},
                         run});

}  // namespace
}  // namespace moecheck::check
