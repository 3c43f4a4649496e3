// Proves:       the optimizer owns every trainable parameter on every rank; summed gradients, their global norm, the clip factor,
//               moments, step counters and master weights are within their bounds of one step from the recorded state and gradients;
//               the weights that the next forward uses are the master rounded once.
// Cannot prove: that the gradients of the microbatches are right (gradient_parity); that the next forward uses the weights.
// Reads:        optim/*, param/*      Applies when: a step ends with the batch
#include <optional>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "harness/check/compare.h"
#include "harness/check/step_causes.h"
#include "harness/trace/tap_points.h"

namespace moecheck::check {
namespace {

constexpr std::string_view kName = "optimizer";
constexpr std::string_view kNorm = "optim/norm_1";
constexpr std::string_view kSteps = "optim/steps_3";
constexpr std::string_view kGrad = "optim/grad/";
constexpr std::string_view kMaster = "optim/master/";
constexpr std::string_view kParam = "optim/param/";

struct Tally {
  CheckOutcome outcome;
  std::optional<bool> are_gradients_zero;   // of those that were judged
  bool is_any_left = false;                 // to step_parity
};

void look_for_owner(const CheckInput& input, const trace::RankTrace& rank, CheckOutcome& outcome) {
  for (const std::string_view parameter : kTrainable) {
    const auto lacking = lacking_state(input, rank, parameter);
    if (lacking.empty() || was_cut_short(input)) continue;
    outcome.findings.push_back(make_finding(
        kName, lacking.front(), rank.rank,
        fmt::format("no optimizer state: the parameter is not owned by the optimizer; not there: {}", fmt::join(lacking, ", "))));
    outcome.findings.back().tensor = parameter;
  }
}

void look_at_steps(const CheckInput& input, Dim rank, const base::HostTensor& got_3, CheckOutcome& outcome) {
  const Dim want = input.one.step_of(input.batch) + 1;
  outcome.compared += got_3.numel();
  for (Dim i = 0; i < got_3.numel(); ++i) {
    if (got_3.int_at(i) == want) continue;
    const std::string_view parameter = kTrainable.at(static_cast<std::size_t>(i));
    outcome.findings.push_back(
        make_finding(kName, kSteps, rank, fmt::format("{} has taken {} steps, declared {}", parameter, got_3.int_at(i), want)));
    outcome.findings.back().tensor = parameter;
    outcome.findings.back().want = static_cast<double>(want);
    outcome.findings.back().got = static_cast<double>(got_3.int_at(i));
  }
}

struct Judged {
  Dim rank = 0;
  std::string_view tap;
  const base::HostTensor& got;
};

void report(const CheckInput& input, const Judged& at, const trace::ExpectedTap& expected, const Comparison& c, CheckOutcome& outcome) {
  const Dim row = c.worst / (at.got.numel() / at.got.dim(0));
  auto finding = make_finding(kName, at.tap, at.rank, fmt::format("{} of {} elements over the bound", c.elements_over, c.compared));
  finding.tensor = trainable_of(at.tap);
  set_figures(c, finding);
  if (finding.tensor.empty()) {
    finding.message = fmt::format("{:.6g} is {:.3g} times the expected {:.6g}", c.got, c.got / c.want, c.want);
    if (at.tap == kNorm) finding.hypothesis = norm_clause(input, at.rank, c.got, c.want);
  } else {
    // Dim 0 of the router is the expert that it scores.
    finding.expert = trace::declared_indices(input.one.problem, at.tap, at.rank, 0).at(static_cast<std::size_t>(row));
    if (c.bound == 0 && at.tap.starts_with(kParam))
      finding.message = fmt::format("{} of {} elements are not the master rounded to {}", c.elements_over, c.compared,
                                    base::knob_name(input.one.problem.dtype));
    finding.hypothesis = state_clause(input, {at.tap, at.rank, at.got, expected, row});
  }
  outcome.findings.push_back(std::move(finding));
}

void look_at(const CheckInput& input, const Judged& at, Tally& tally) {
  // What the next forward uses is judged by the rank's own master: no reference is needed to round a number.
  const base::HostTensor* master =
      at.tap.starts_with(kParam) ? fitting_tensor(input, at.rank, fmt::format("{}{}", kMaster, trainable_of(at.tap))) : nullptr;
  trace::ExpectedTap copy;
  if (master != nullptr) copy.value = *master;
  const trace::ExpectedTap* expected = master == nullptr ? expected_tap(input, at.rank, at.tap) : &copy;
  if (expected == nullptr && whole_tap(input, at.rank, at.tap) != nullptr) {
    tally.is_any_left = true;
    return;
  }
  if (expected == nullptr || expected->value.shape() != at.got.shape()) {
    tally.outcome.note += fmt::format("; {} of rank {} not judged: its inputs are missing", at.tap, at.rank);
    return;
  }
  const CompareRule rule = {.tap = at.tap, .store = store_of(input.one, at.tap), .is_exact = master != nullptr};
  const Comparison c = compare_tap(at.got, *expected, rule);
  tally.outcome.compared += c.compared;
  tally.outcome.stages.push_back({std::string(at.tap), at.rank, c.measured, c.bound, c.used, c.compared});
  if (at.tap.starts_with(kGrad)) tally.are_gradients_zero = tally.are_gradients_zero.value_or(true) && c.all_zero;
  if (c.elements_over > 0) report(input, at, *expected, c, tally.outcome);
}

CheckOutcome run(const CheckInput& input) {
  Tally tally;
  CheckOutcome& outcome = tally.outcome;
  if (!input.one.ends_step(input.batch)) {
    outcome.note = "no step ends here";
    return std::move(outcome);
  }
  const Readable taps(input, kName, step_taps(input, false), step_taps(input, true));
  outcome.findings = taps.findings();
  outcome.note = taps.absence_note();
  bool is_anything_shown = false;
  for (const trace::RankTrace& rank : input.observed.ranks) {
    look_for_owner(input, rank, outcome);
    for (const trace::TapPoint& tap : trace::tap_points()) {
      const base::HostTensor* got = is_optimizer_tap(tap.name) ? taps.get(rank.rank, tap.name) : nullptr;
      is_anything_shown = is_anything_shown || (is_optimizer_tap(tap.name) && rank.find(tap.name) != nullptr);
      if (got == nullptr || got->numel() == 0) continue;
      if (tap.name == kSteps) look_at_steps(input, rank.rank, *got, outcome);
      else look_at(input, {rank.rank, tap.name, *got}, tally);
    }
  }
  if (!is_anything_shown) {
    outcome.state = record::CheckState::kUnobserved;
    outcome.note = "no rank shows optim/*";
    return std::move(outcome);
  }
  if (tally.is_any_left && outcome.compared == 0 && outcome.findings.empty()) {
    outcome.state = record::CheckState::kUnobserved;
    outcome.note = "what is shown has to be judged without its inputs, by step_parity" + outcome.note;
    return std::move(outcome);
  }
  if (tally.are_gradients_zero.value_or(false)) outcome.compared = 0;
  conclude(outcome, "all gradients are zero, or nothing was compared");
  return std::move(outcome);
}

MOECHECK_REGISTER_CHECK({kName,
                         {"the optimizer owns every trainable parameter on every rank; summed gradients, their global norm, the clip factor, "
                          "moments, step counters and master weights are within their bounds of one step from the recorded state and "
                          "gradients; the weights that the next forward uses are the master rounded once",
                          "that the gradients of the microbatches are right (gradient_parity); that the next forward uses the weights",
                          "optim/*, param/*", "a step ends with the batch"},
                         run});

}  // namespace
}  // namespace moecheck::check
