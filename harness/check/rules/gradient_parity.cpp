// Proves:       the gradient of every parameter, of the routing weights and of the tokens is on every rank within its bound of what the
//               recorded backward stages must sum up to; and names a gain, or a reduction that is missing.
// Cannot prove: that a gradient below its bound is right; that the optimizer uses it.
// Reads:        grad/router, grad/experts, grad/scores, grad/x      Applies when: a backward ran
#include <array>

#include <fmt/format.h>

#include "harness/check/compare.h"
#include "harness/check/gradient_causes.h"
#include "harness/check/place.h"
#include "harness/check/readable.h"

namespace moecheck::check {
namespace {

constexpr std::string_view kName = "gradient_parity";
constexpr std::array<std::string_view, 5> kGradients = {"grad/scores_TK", "grad/router/w_ED", "grad/experts/gate_up_EGD",
                                                        "grad/experts/down_EDF", "grad/x_TD"};

void place(const CheckInput& input, Dim rank, std::string_view tap, std::int64_t row, std::int64_t column, record::Finding& finding) {
  set_place(input, tap, row, finding);
  const base::HostTensor* ids = fitting_tensor(input, rank, "router/ids_TK");
  if (tap != "grad/scores_TK" || ids == nullptr) return;
  finding.slot = column;
  finding.expert = ids->int_at(row * ids->dim(1) + column);
}

bool look_at(const CheckInput& input, Dim rank, std::string_view tap, const trace::ExpectedTap& expected, CheckOutcome& outcome) {
  const base::HostTensor& got = *rank_trace(input, rank)->tensor(tap);
  if (got.shape() != expected.value.shape()) return true;   // a finding of Readable already
  const bool is_exact_here = is_exact(input);
  const Comparison c = compare_tap(got, expected, {.tap = tap, .store = store_of(input.one, tap), .is_exact = is_exact_here,
                                                   .exact_unit = is_exact_here ? unit_of(expected) : 0});
  outcome.compared += c.compared;
  outcome.stages.push_back({std::string(tap), rank, c.measured, c.bound, c.used, c.compared});
  if (c.elements_over == 0) return c.all_zero;
  auto finding = make_finding(kName, tap, rank, fmt::format("{} of {} elements over the bound", c.elements_over, c.compared));
  const std::int64_t columns = got.numel() / got.dim(0);
  place(input, rank, tap, c.worst / columns, c.worst % columns, finding);
  set_figures(c, finding);
  finding.hypothesis = gradient_cause(input, rank, tap, expected.value);
  outcome.findings.push_back(std::move(finding));
  return false;
}

CheckOutcome run(const CheckInput& input) {
  CheckOutcome outcome;
  const std::vector<std::string_view> asked = asked_taps(input, kGradients);
  if (asked.empty()) {
    outcome.note = "no backward";
    return outcome;
  }
  const Readable taps(input, kName, asked);
  if (taps.absent().size() == asked.size()) return taps.unobserved();
  outcome.findings = taps.findings();
  outcome.note = taps.absence_note();
  bool is_all_zero = true, is_any_staged = false, is_any_whole = false;
  for (const std::string_view tap : asked)
    for (Dim rank = 0; rank < input.one.world_size(); ++rank) {
      if (taps.get(rank, tap) == nullptr) continue;
      is_any_whole = is_any_whole || whole_tap(input, rank, tap) != nullptr;
      const auto* expected = expected_tap(input, rank, tap);
      if (expected == nullptr) continue;
      is_any_staged = true;
      is_all_zero = look_at(input, rank, tap, *expected, outcome) && is_all_zero;
    }
  if (is_any_whole && !is_any_staged && outcome.findings.empty()) {
    outcome.state = record::CheckState::kUnobserved;
    outcome.note = "no rank shows the backward stages that these gradients are sums of; layer_parity judges them";
    return outcome;
  }
  if (is_all_zero) outcome.compared = 0;
  conclude(outcome, "nothing but zeros was compared, or nothing at all");
  return outcome;
}

MOECHECK_REGISTER_CHECK({kName,
                         {"the gradient of every parameter, of the routing weights and of the tokens is on every rank within its bound of "
                          "what the recorded backward stages must sum up to; and names a gain, or a reduction that is missing",
                          "that a gradient below its bound is right; that the optimizer uses it",
                          "grad/router, grad/experts, grad/scores, grad/x", "a backward ran"},
                         run});

}  // namespace
}  // namespace moecheck::check
