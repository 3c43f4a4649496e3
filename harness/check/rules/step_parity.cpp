// Proves:       where a rank shows what a step left and not what it was computed from (parameters without masters, masters without
//               moments, no norm or clip factor), it is what the declared optimizer makes, step after step, of the parameters before
//               the first step and the recorded gradients, within bounds that add up over the whole recurrence; names a gain of the
//               update, a weight decay that is missing, an expert that did not move.
// Cannot prove: which part of the step went wrong; an error below the bounds: in bf16 without masters that are shown, a change of less
//               than a rounding of the weight; with adamw, a factor that all gradients of all steps have in common, since it cancels.
// Reads:        optim/norm, optim/clip, optim/m, optim/v, optim/master, optim/param; param/* of the batch after a step that shows none
// Applies when: a step ended, and shows such a tap
#include <cmath>
#include <map>
#include <numeric>

#include <fmt/format.h>

#include "harness/check/compare.h"
#include "harness/check/place.h"
#include "harness/check/step_causes.h"
#include "harness/trace/tap_points.h"

namespace moecheck::check {
namespace {

constexpr std::string_view kName = "step_parity";
constexpr std::string_view kNorm = "optim/norm_1";

// A tap and what it has to be.
struct Judged {
  Dim rank = 0;
  std::string_view tap;
  const base::HostTensor& got;
  const trace::WholeTap& expected;
};

struct Tally {
  CheckOutcome outcome;
  std::int64_t num_weights = 0;
  std::int64_t num_blind = 0;   // their update is within the bound
};

const trace::WholeTap* in_dtype(const CheckInput& input, Dim rank, std::string_view tap) {
  const auto& taps = input.expected.ranks.at(static_cast<std::size_t>(rank)).in_dtype;
  const auto found = taps.find(tap);
  return found == taps.end() ? nullptr : &found->second;
}

void count_blind(const CheckInput& input, const Judged& at, Tally& tally) {
  const base::HostTensor* before = weights_before(input, at.rank, at.tap);
  if (before == nullptr || before->shape() != at.got.shape()) return;
  tally.num_weights += at.got.numel();
  for (Dim i = 0; i < at.got.numel(); ++i)
    if (!(std::fabs(at.expected.value.at(i) - before->at(i)) > at.expected.bound.at(i))) ++tally.num_blind;
}

void report(const CheckInput& input, const Judged& at, const Comparison& c, CheckOutcome& outcome) {
  auto finding = make_finding(kName, at.tap, at.rank,
                              fmt::format("{} of {} elements over the bound of the whole step", c.elements_over, c.compared));
  finding.tensor = trainable_of(at.tap);
  set_figures(c, finding);
  const Dim row = c.worst / (at.got.numel() / at.got.dim(0));
  trace::ExpectedTap by_value;
  by_value.value = at.expected.value;
  const WrongState wrong{at.tap, at.rank, at.got, by_value, row};
  if (finding.tensor.empty()) {
    finding.message = fmt::format("{:.6g} is {:.3g} times the expected {:.6g}", c.got, c.got / c.want, c.want);
    if (at.tap == kNorm) finding.hypothesis = norm_clause(input, at.rank, c.got, c.want);
  } else {
    set_place(input, at.tap, row, finding);
    finding.hypothesis = weights_before(input, at.rank, at.tap) != nullptr ? update_clause(input, wrong) : state_clause(input, wrong);
  }
  outcome.findings.push_back(std::move(finding));
}

// Of one parameter, or one tap of the whole step. What takes the steps is the same on all ranks: one of the two has to fit all of it.
void look_at(const CheckInput& input, const std::vector<std::pair<Dim, std::string_view>>& taps, Tally& tally) {
  std::vector<Judged> by_masters, by_dtype;
  for (const auto& [rank, tap] : taps) {
    const base::HostTensor& got = *fitting_tensor(input, rank, tap);
    by_masters.push_back({rank, tap, got, *whole_tap(input, rank, tap)});
    if (const trace::WholeTap* other = in_dtype(input, rank, tap)) by_dtype.push_back({rank, tap, got, *other});
  }
  const auto compared = [&](const std::vector<Judged>& all) {
    std::vector<Comparison> each;
    for (const Judged& at : all) each.push_back(compare_whole(at.got, at.expected, store_of(input.one, at.tap)));
    return each;
  };
  const auto num_over = [](const std::vector<Comparison>& each) {
    return std::accumulate(each.begin(), each.end(), std::int64_t{0}, [](auto sum, const Comparison& c) { return sum + c.elements_over; });
  };
  const std::vector<Comparison> with_masters = compared(by_masters), alone = compared(by_dtype);
  const bool is_in_dtype = alone.size() == with_masters.size() && num_over(alone) < num_over(with_masters);
  for (std::size_t i = 0; i < with_masters.size(); ++i) {
    const Judged& at = is_in_dtype ? by_dtype[i] : by_masters[i];
    const Comparison& c = is_in_dtype ? alone[i] : with_masters[i];
    tally.outcome.compared += c.compared;
    if (c.compared == 0) continue;
    tally.outcome.stages.push_back({std::string(at.tap), at.rank, c.measured, c.bound, c.used, c.compared});
    count_blind(input, at, tally);
    if (c.elements_over > 0) report(input, at, c, tally.outcome);
  }
}

CheckOutcome run(const CheckInput& input) {
  Tally tally;
  CheckOutcome& outcome = tally.outcome;
  std::map<std::string_view, std::vector<std::pair<Dim, std::string_view>>> groups;
  bool is_lacking = false;   // shown, and nobody can say what it should be
  for (const trace::TapPoint& tap : trace::tap_points()) {
    const bool is_state = is_optimizer_tap(tap.name) && tap.name != "optim/steps_3" && !tap.name.starts_with("optim/grad/");
    const bool is_param = tap.name.starts_with("param/") && !trainable_of(tap.name).empty();
    if (!is_state && !is_param) continue;
    const std::string_view group = trainable_of(tap.name).empty() ? tap.name : trainable_of(tap.name);
    for (Dim rank = 0; rank < input.one.world_size(); ++rank) {
      if (fitting_tensor(input, rank, tap.name) == nullptr) continue;
      if (whole_tap(input, rank, tap.name) != nullptr) groups[group].emplace_back(rank, tap.name);
      else is_lacking = is_lacking || (is_state && expected_tap(input, rank, tap.name) == nullptr);
    }
  }
  for (const auto& [group, taps] : groups) look_at(input, taps, tally);
  if (groups.empty()) {
    if (is_lacking) outcome.state = record::CheckState::kUnobserved;
    outcome.note = is_lacking ? "gradients, or the state that was resumed with, are not shown"
                              : "every part of a step that is shown is judged from its own inputs";
    return std::move(outcome);
  }
  if (tally.num_blind > 0)
    outcome.note = fmt::format("{} of {} weights have an update below its bound", tally.num_blind, tally.num_weights);
  const bool is_blind = tally.num_weights > 0 && tally.num_blind == tally.num_weights;
  conclude(outcome, "nothing was compared");
  if (is_blind && outcome.findings.empty()) outcome.state = record::CheckState::kUnobserved;
  return std::move(outcome);
}

MOECHECK_REGISTER_CHECK({kName,
                         {"where a rank shows what a step left and not what it was computed from (parameters without masters, masters "
                          "without moments, no norm or clip factor), it is what the declared optimizer makes, step after step, of the "
                          "parameters before the first step and the recorded gradients, within bounds that add up over the whole "
                          "recurrence; names a gain of the update, a weight decay that is missing, an expert that did not move",
                          "which part of the step went wrong; an error below the bounds: in bf16 without masters that are shown, a change "
                          "of less than a rounding of the weight; with adamw, a factor that all gradients of all steps have in common, "
                          "since it cancels",
                          "optim/norm, optim/clip, optim/m, optim/v, optim/master, optim/param; param/* of the batch after a step that "
                          "shows none",
                          "a step ended, and shows such a tap"},
                         run});

}  // namespace
}  // namespace moecheck::check
