// Proves:       the gradient of every parameter, of the routing weights and of the tokens is on every rank within its bound of what the
//               recorded backward stages must sum up to; and names a gain, or a reduction that is missing.
// Cannot prove: that a gradient below its bound is right; that the optimizer uses it.
// Reads:        grad/router, grad/experts, grad/scores, grad/x      Applies when: a backward ran
#include <algorithm>
#include <array>
#include <cmath>

#include <fmt/format.h>

#include "harness/check/compare.h"
#include "harness/check/hypothesis.h"
#include "harness/check/place.h"
#include "harness/check/readable.h"

namespace moecheck::check {
namespace {

constexpr std::string_view kName = "gradient_parity";
constexpr std::array<std::string_view, 5> kGradients = {"grad/scores_TK", "grad/router/w_ED", "grad/experts/gate_up_EGD",
                                                        "grad/experts/down_EDF", "grad/x_TD"};
// Words only: no verdict hangs on these. A tenth of the size is far from rounding and near enough to recognise a cause.
constexpr double kRecognised = 0.1;

// Relative L2 distance of `got` from the expected values.
double distance(const std::vector<double>& got, const trace::ExpectedTap& expected) {
  double error = 0, size = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double want = expected.value.at(static_cast<std::int64_t>(i));
    error += (got[i] - want) * (got[i] - want);
    size += want * want;
  }
  return size > 0 ? std::sqrt(error / size) : HUGE_VAL;
}

// "each rank is wrong and their sum over ep is right": the parts were never summed.
std::string missing_reduction(const CheckInput& input, Dim rank, std::string_view tap, const trace::ExpectedTap& expected) {
  const model::Mesh& mesh = input.one.problem.mesh;
  for (const model::MeshDim& dim : mesh.dims()) {
    if (dim.size == 1) continue;
    std::vector<double> sum(static_cast<std::size_t>(expected.value.numel()), 0.0);
    bool is_complete = true, is_same = true;   // equal parts are not parts of a sum that was never made
    for (const Dim member : mesh.group(rank, dim.name)) {
      const base::HostTensor* part = rank_trace(input, member) == nullptr ? nullptr : rank_trace(input, member)->tensor(tap);
      is_complete = is_complete && part != nullptr && part->shape() == expected.value.shape();
      is_same = is_same && is_complete && std::ranges::equal(part->bytes(), rank_trace(input, rank)->tensor(tap)->bytes());
      for (std::size_t i = 0; is_complete && i < sum.size(); ++i) sum[i] += part->at(static_cast<std::int64_t>(i));
    }
    if (is_complete && !is_same && distance(sum, expected) < kRecognised)
      return fmt::format("each rank is wrong, their sum over {} is right: a reduction is missing", dim.name);
  }
  return "";
}

std::string cause_of(const CheckInput& input, Dim rank, std::string_view tap, const trace::ExpectedTap& expected) {
  const base::HostTensor& got = *rank_trace(input, rank)->tensor(tap);
  if (std::string missing = missing_reduction(input, rank, tap, expected); !missing.empty()) return missing;
  return ratio_clause(expected.value.to_doubles(), got.to_doubles(), input.one.problem);
}

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
  finding.hypothesis = cause_of(input, rank, tap, expected);
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
  bool is_all_zero = true;
  for (const std::string_view tap : asked)
    for (Dim rank = 0; rank < input.one.world_size(); ++rank)
      if (const auto* expected = expected_tap(input, rank, tap); expected != nullptr && taps.get(rank, tap) != nullptr)
        is_all_zero = look_at(input, rank, tap, *expected, outcome) && is_all_zero;
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
