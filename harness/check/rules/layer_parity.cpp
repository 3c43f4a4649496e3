// Proves:       a layer that does not show its inside makes, from its own tokens, routing and scores, on every rank the output and
//               the gradients of the single-process layer, element by element and row by row within the bounds that add up over all
//               stages; names a gain, or a reduction that is missing.
// Cannot prove: where inside the layer an error arose; anything about one smaller than the composed bound, which grows with the
//               layer's sizes; that the experts were chosen rightly, which routing_ties judges.
// Reads:        router/scores, combine/partial, output, grad/* of tokens, routing and parameters
// Applies when: a forward ran, and the inputs of a stage that is shown are not
#include <array>
#include <optional>

#include <fmt/format.h>

#include "harness/check/compare.h"
#include "harness/check/gradient_causes.h"
#include "harness/check/hypothesis.h"
#include "harness/check/place.h"
#include "harness/check/readable.h"
#include "harness/check/row_norms.h"

namespace moecheck::check {
namespace {

constexpr std::string_view kName = "layer_parity";
constexpr std::string_view kOutput = "output/y_TD";
constexpr std::string_view kIds = "router/ids_TK";
// In stage order.
constexpr std::array<std::string_view, 9> kTaps = {
    "router/scores_TK",         "combine/partial_TD", kOutput,          "grad/experts/down_EDF", "grad/experts/gate_up_EGD",
    "grad/scores_TK",           "grad/logits_TE",     "grad/router/w_ED", "grad/x_TD"};

struct Tally {
  CheckOutcome outcome;
  bool all_zero = true;
  double farthest = 0;   // l2
  std::string farthest_tap;
};

// With exact values stage_diff demands equality of the whole output, and allows no bound. A rank without tokens has nothing to compare.
bool is_judged_exactly(const CheckInput& input, Dim rank, std::string_view tap, const trace::WholeTap& expected) {
  const Dim num_exact = input.expected.ranks[static_cast<std::size_t>(rank)].end_to_end_TD.numel();
  return tap == kOutput && is_exact(input) && num_exact == expected.value.numel();
}

void place(const CheckInput& input, Dim rank, std::string_view tap, Dim row, Dim column, record::Finding& finding) {
  set_place(input, tap, row, finding);
  if (tap == "grad/logits_TE") finding.expert = column;
  const base::HostTensor* ids = fitting_tensor(input, rank, kIds);
  if (!tap.ends_with("scores_TK") || ids == nullptr) return;
  finding.slot = column;
  finding.expert = ids->int_at(row * ids->dim(1) + column);
}

std::string cause_of(const CheckInput& input, Dim rank, std::string_view tap, Dim row, const trace::WholeTap& expected) {
  const base::HostTensor& got = *rank_trace(input, rank)->tensor(tap);
  if (tap.starts_with("grad/"))
    if (std::string cause = gradient_cause(input, rank, tap, expected.value); !cause.empty()) return cause;
  trace::ExpectedTap by_value;
  by_value.value = expected.value;
  return hypothesis_for(input, {tap, rank, row, got, by_value});
}

void look_at(const CheckInput& input, Dim rank, std::string_view tap, const trace::WholeTap& expected, Tally& tally) {
  const base::HostTensor& got = *rank_trace(input, rank)->tensor(tap);
  const Comparison c = compare_whole(got, expected, store_of(input.one, tap));
  tally.outcome.compared += c.compared;
  tally.all_zero = tally.all_zero && c.all_zero;
  if (c.compared == 0) return;
  const RowNorms norms = row_norms(got, expected);
  const bool is_by_row = c.elements_over == 0 && !(norms.used <= c.used);
  tally.outcome.stages.push_back({std::string(tap), rank, is_by_row ? norms.error : c.measured, is_by_row ? norms.bound : c.bound,
                                  is_by_row ? norms.used : c.used, c.compared});
  if (norms.l2 > tally.farthest) {
    tally.farthest = norms.l2;
    tally.farthest_tap = tap;
  }
  if (c.elements_over == 0 && norms.num_over == 0) return;
  // Gradients of weights have no bound by row.
  const std::string rows = expected.row_bound.empty() ? "" : fmt::format(", {} of {} rows in the l2 norm", norms.num_over, c.num_rows);
  auto finding = make_finding(kName, tap, rank, fmt::format("{} of {} elements over the bound of the whole layer{}; relative l2 error {:.2g}",
                                                            c.elements_over, c.compared, rows, norms.l2));
  const Dim columns = got.numel() / got.dim(0), row = c.elements_over > 0 ? c.worst / columns : norms.worst;
  place(input, rank, tap, row, c.worst % columns, finding);
  set_figures(c, finding);
  if (c.elements_over == 0) {   // figures of the row
    finding.want = finding.got = std::nullopt;
    finding.measured = norms.error;
    finding.bound = norms.bound;
    finding.used = norms.used;
  }
  finding.hypothesis = cause_of(input, rank, tap, row, expected);
  tally.outcome.findings.push_back(std::move(finding));
}

CheckOutcome run(const CheckInput& input) {
  Tally tally;
  bool is_any = false;
  for (const std::string_view tap : kTaps)
    for (Dim rank = 0; rank < input.one.world_size(); ++rank) {
      const trace::WholeTap* expected = whole_tap(input, rank, tap);
      if (expected == nullptr || fitting_tensor(input, rank, tap) == nullptr) continue;
      if (is_judged_exactly(input, rank, tap, *expected)) continue;
      is_any = true;
      look_at(input, rank, tap, *expected, tally);
    }
  // Without the subject's own routing there is nothing to compare with.
  const std::string_view needed = is_any ? kIds : kOutput;
  if (const Readable taps(input, kName, asked_taps(input, std::array{needed})); tally.outcome.compared == 0 && !taps.absent().empty())
    return taps.unobserved();
  if (!is_any) {
    tally.outcome.note = "every stage that is shown is judged from its own inputs";
    return std::move(tally.outcome);
  }
  if (tally.all_zero) tally.outcome.compared = 0;
  if (!tally.farthest_tap.empty() && input.one.is_first(input.batch))
    tally.outcome.note = fmt::format("relative l2 error at most {:.1g} ({})", tally.farthest, tally.farthest_tap);
  conclude(tally.outcome, "nothing but zeros was compared, or nothing at all");
  return std::move(tally.outcome);
}

MOECHECK_REGISTER_CHECK({kName,
                         {"a layer that does not show its inside makes, from its own tokens, routing and scores, on every rank the "
                          "output and the gradients of the single-process layer, element by element and row by row within the "
                          "bounds that add up over all stages; names a gain, or a reduction that is missing",
                          "where inside the layer an error arose; anything about one smaller than the composed bound, which grows "
                          "with the layer's sizes; that the experts were chosen rightly, which routing_ties judges",
                          "router/scores, combine/partial, output, grad/* of tokens, routing and parameters",
                          "a forward ran, and the inputs of a stage that is shown are not"},
                         run});

}  // namespace
}  // namespace moecheck::check
