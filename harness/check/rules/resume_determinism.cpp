// Proves:       steps, save, load and the rest are what all steps in one go are: every tap of every batch after the load is what
//               the controls show, bit for bit if these agree bit for bit, else each kind of taps within their envelope; on another
//               layout: the first step after the load leaves the same global weights, masters and moments, where no gradient can
//               round.
// Cannot prove: anything about another layout beyond that; that a resumed run is right where all runs are wrong alike; with few
//               controls, that these agree because the subject repeats itself and not by luck; what is smaller than its noise, if it
//               does not, or follows from noise that made runs choose other experts.
// Reads:        every tap after the load; optim/* of the first step      Applies when: the last restart takes steps
#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "harness/check/digests.h"
#include "harness/check/life_state.h"
#include "harness/check/readable.h"
#include "harness/check/run_comparison.h"

namespace moecheck::check {
namespace {

constexpr std::string_view kName = "resume_determinism";
constexpr std::array<std::string_view, 3> kTrained = {"router/w_ED", "experts/gate_up_EGD", "experts/down_EDF"};
constexpr std::array<std::string_view, 4> kLeft = {"optim/m/", "optim/v/", "optim/master/", "optim/param/"};

CheckOutcome not_applicable(std::string note) {
  CheckOutcome outcome;
  outcome.note = std::move(note);
  return outcome;
}

const LifeInput* resumed_life(const CaseInput& input) {
  const LifeInput* resumed = nullptr;
  for (const LifeInput& life : input.lives)
    if (life.life.kind == cases::LifeKind::kRestart && life.life.takes_batches && life.life.one.has_phase("step")) resumed = &life;
  return resumed;
}

CheckOutcome on_same_layout(const CaseInput& input, const LifeInput& resumed) {
  ComparedRuns runs{.run = resumed, .witness = &input.lives.front(), .first_batch = resumed.life.one.first_batch};
  for (const LifeInput& life : input.lives)
    if (life.life.kind == cases::LifeKind::kControl) runs.controls.push_back(&life);
  if (runs.controls.empty()) runs.controls = {&input.lives.front()};
  CheckOutcome outcome = compare_runs(kName, runs);
  conclude(outcome, "nobody shows a tap after the load");
  return outcome;
}

// No order of summation can have rounded the gradient of a parameter, in any microbatch of the first step.
bool is_gradient_exact(const LifeInput& life, std::string_view parameter) {
  for (Dim b = 0; b < life.life.one.training.microbatches; ++b) {
    const auto at = static_cast<std::size_t>(b);
    if (at >= life.batches.size() || life.expected[at].ranks.size() != life.batches[at].ranks.size()) return false;
    if (!exact_digests(life.life.one, life.expected[at], life.batches[at]).contains(fmt::format("grad/{}", parameter))) return false;
  }
  return true;
}

base::HostTensor global_after_step(const LifeInput& life, const std::string& tap) {
  const trace::Trace& batch = life.batches[static_cast<std::size_t>(life.life.one.training.microbatches - 1)];
  std::vector<const base::HostTensor*> parts;
  for (const trace::RankTrace& rank : batch.ranks) parts.push_back(rank.tensor(tap));
  if (std::ranges::find(parts, nullptr) != parts.end()) return {};
  return assembled(life.life.one.problem, tap, parts);
}

// By value: a zero gradient's sign depends on who adds.
void compare_step(const LifeInput& first, const LifeInput& resumed, const std::string& tap, CheckOutcome& outcome) {
  const base::HostTensor want = global_after_step(first, tap), got = global_after_step(resumed, tap);
  if (want.numel() == 0 || want.shape() != got.shape() || want.dtype() != got.dtype()) return;
  outcome.compared += want.numel();
  Dim wrong = 0, worst = -1;
  for (Dim i = 0; i < want.numel(); ++i)
    if (got.at(i) != want.at(i) && wrong++ == 0) worst = i;
  if (wrong == 0) return;
  record::Finding finding;
  finding.check = kName;
  finding.stage = tap;
  finding.life = resumed.life.name;
  finding.step = 1;
  finding.expert = worst / (want.numel() / want.dim(0));   // dim 0 counts the experts, of the router too
  finding.want = want.at(worst);
  finding.got = got.at(worst);
  finding.bound = 0;
  finding.compared = want.numel();
  finding.message = fmt::format("{} of {} elements are not those of the same step on {}, which no layout can round differently", wrong, want.numel(),
                                first.life.one.problem.mesh.text());
  outcome.findings.push_back(std::move(finding));
}

CheckOutcome on_other_layout(const CaseInput& input, const LifeInput& resumed) {
  const LifeInput& first = input.lives.front();
  if (input.one.problem.values != model::Values::kExact || resumed.life.one.first_batch != 0)
    return not_applicable("on another layout a step may round differently, but the first one with values=exact");
  if (input.one.training.clip_norm > 0) return not_applicable("the global norm may round differently on another layout");
  CheckOutcome outcome;
  for (const std::string_view parameter : kTrained)
    if (is_gradient_exact(first, parameter) && is_gradient_exact(resumed, parameter))
      for (const std::string_view kind : kLeft) compare_step(first, resumed, fmt::format("{}{}", kind, parameter), outcome);
  if (outcome.compared == 0) return not_applicable("no gradient whose sums cannot round, on both layouts");
  conclude(outcome, "");
  return outcome;
}

CheckOutcome run(const CaseInput& input) {
  const LifeInput* resumed = resumed_life(input);
  if (resumed == nullptr) return not_applicable("no life goes on with steps after a load");
  const bool is_same = resumed->life.one.impl == input.one.impl && resumed->life.one.problem.mesh == input.one.problem.mesh;
  return is_same ? on_same_layout(input, *resumed) : on_other_layout(input, *resumed);
}

MOECHECK_REGISTER_CHECK({.name = kName,
                         .doc = {"steps, save, load and the rest are what all steps in one go are: every tap of every batch after the load is "
                                 "what the controls show, bit for bit if these agree bit for bit, else each kind of taps within their envelope; on "
                                 "another layout: the first step after the load leaves the same global weights, masters and moments, where "
                                 "no gradient can round",
                                 "anything about another layout beyond that; that a resumed run is right where all runs are wrong alike; with few "
                                 "controls, that these agree because the subject repeats itself and not by luck; what is smaller than its "
                                 "noise, if it does not, or follows from noise that made runs choose other experts",
                                 "every tap after the load; optim/* of the first step", "the last restart takes steps"},
                         .run_case = run});

}  // namespace
}  // namespace moecheck::check
