#include "harness/check/run_comparison.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <limits>
#include <map>
#include <set>

#include <fmt/format.h>

#include "harness/check/place.h"
#include "harness/check/readable.h"
#include "harness/check/run_noise.h"
#include "harness/tolerance/bounds.h"
#include "harness/tolerance/envelope.h"
#include "harness/trace/tap_points.h"

namespace moecheck::check {
namespace {

using record::FindingClass;
using tolerance::EnvelopeVerdict;

constexpr std::string_view kChoices = "router/ids_TK";
constexpr std::string_view kTokens = "input/x_TD";

const base::HostTensor* shown(const trace::Trace& trace, std::string_view tap, std::size_t rank) {
  return rank < trace.ranks.size() ? trace.ranks[rank].tensor(tap) : nullptr;
}

bool is_shown(const trace::Trace& trace, std::string_view tap) {
  return std::ranges::any_of(trace.ranks, [&](const trace::RankTrace& rank) { return rank.find(tap) != nullptr; });
}

bool is_same_on_rank(const trace::Trace& a, const trace::Trace& b, std::string_view tap, std::size_t rank) {
  const base::HostTensor* in_a = shown(a, tap, rank);
  const base::HostTensor* in_b = shown(b, tap, rank);
  if (in_a == nullptr || in_b == nullptr) return in_a == in_b;
  return base::same_bytes(*in_a, *in_b);
}

std::size_t num_ranks(const trace::Trace& a, const trace::Trace& b) { return std::max(a.ranks.size(), b.ranks.size()); }

bool is_same(const trace::Trace& a, const trace::Trace& b, std::string_view tap) {
  for (std::size_t r = 0; r < num_ranks(a, b); ++r)
    if (!is_same_on_rank(a, b, tap, r)) return false;
  return true;
}

// One batch of all runs.
struct Batch {
  Dim number = 0;
  const trace::Trace& run;
  std::vector<const trace::Trace*> controls;
  const trace::Trace* witness = nullptr;
};

// One tap of it.
struct Place {
  std::string_view tap;
  const Batch& batch;
};

// Of a kind of taps.
struct Distance {
  Apart nearest;             // of the run from a control
  Apart farthest;            // of two controls
  double of_rounding = 0;
  std::size_t control = 0;   // the nearest
};

// A NaN is farther than all.
const Apart& farther(const Apart& a, const Apart& b) { return b.distance <= a.distance ? a : b; }

std::string usual_text(const Distance& distance, std::int64_t num_controls) {
  if (distance.nearest.distance <= distance.farthest.distance) return fmt::format(": usual, by a rank test of level 1/{}", num_controls + 1);
  return distance.nearest.distance <= distance.of_rounding ? ": no more than a few elements rounded to a neighbour" : ": usual for noise in many elements";
}

class RunComparison {
 public:
  RunComparison(std::string_view check, const ComparedRuns& runs) : check_(check), runs_(runs) {}

  // Of a subject that repeats itself, as far as is known.
  void compare_bits(const Batch& batch);
  // Of one that does not.
  void compare_noise(const Batch& batch);
  // Before the first batch that is compared, in a run of that kind.
  void look_at_choices(const Batch& batch);
  CheckOutcome outcome();

 private:
  bool is_compared(const Place& place) const;
  void count(const Place& place);
  record::Finding finding_at(const Place& place, std::string message) const;
  record::Finding finding_on_rank(const Place& place, std::size_t rank, const trace::Trace& like, std::string_view more) const;
  void blame_ranks(const Place& place);
  void leave_open(const Place& place, std::string message);
  void judge_kind(const Batch& batch, const std::vector<std::string_view>& taps);
  void judge_distance(const Place& place, const Distance& distance);

  std::string_view check_;
  const ComparedRuns& runs_;
  CheckOutcome outcome_;
  std::int64_t num_taps_ = 0;
  std::int64_t num_different_ = 0;
  std::set<std::size_t> blamed_;               // ranks
  bool has_parted_ = false;                    // runs chose other experts: what follows is not comparable
  std::set<std::string_view> open_;            // taps
  std::set<std::pair<EnvelopeVerdict, std::string_view>> said_;   // of which kinds; of what is beyond the first alone
};

record::Finding RunComparison::finding_at(const Place& place, std::string message) const {
  const cases::Case& one = runs_.run.life.one;
  record::Finding finding;
  finding.check = check_;
  finding.stage = place.tap;
  finding.life = runs_.run.life.name;
  if (one.has_phase("step")) finding.step = one.step_of(place.batch.number) + 1;
  finding.message = std::move(message);
  if (one.training.microbatches > 1) finding.message += fmt::format(" (microbatch {})", place.batch.number % one.training.microbatches + 1);
  return finding;
}

// more: what else there is to say of the difference.
record::Finding RunComparison::finding_on_rank(const Place& place, std::size_t rank, const trace::Trace& like, std::string_view more) const {
  const auto control = std::ranges::find(place.batch.controls, &like) - place.batch.controls.begin();
  const std::string& name = runs_.controls[static_cast<std::size_t>(control)]->life.name;
  const base::HostTensor* got = shown(place.batch.run, place.tap, rank);
  const base::HostTensor* want = shown(like, place.tap, rank);
  const Difference found = difference(got, want);
  if (!found.is_comparable) {
    const auto text = [](const base::HostTensor* t) { return t == nullptr ? "nothing" : base::shape_text(t->shape()); };
    auto finding = finding_at(place, fmt::format("shows {}, {} and its like show {}", text(got), name, text(want)));
    finding.rank = static_cast<std::int64_t>(rank);
    return finding;
  }
  auto finding = finding_at(place, fmt::format("{} of {} elements differ from {} by at most {:.6g}, {}", found.count, got->numel(), name, found.largest, more));
  finding.rank = static_cast<std::int64_t>(rank);
  finding.want = want->at(found.worst);
  finding.got = got->at(found.worst);
  finding.measured = found.largest;
  finding.bound = 0;
  finding.compared = got->numel();
  const Dim batch = place.batch.number;
  const CheckInput input{runs_.run.life.one, runs_.run.expected[static_cast<std::size_t>(batch)], place.batch.run, {}, batch};
  if (!got->shape().empty()) set_place(input, place.tap, found.worst / (got->numel() / got->dim(0)), finding);
  return finding;
}

// The controls agree: so must the run, on every rank.
void RunComparison::blame_ranks(const Place& place) {
  const trace::Trace& like = *place.batch.controls.front();
  for (std::size_t r = 0; r < num_ranks(place.batch.run, like); ++r)
    if (!is_same_on_rank(place.batch.run, like, place.tap, r) && blamed_.insert(r).second)
      outcome_.findings.push_back(finding_on_rank(place, r, like, "and the controls agree bit for bit"));
}

void RunComparison::leave_open(const Place& place, std::string message) {
  if (!open_.insert(place.tap).second) return;
  outcome_.findings.push_back(finding_at(place, std::move(message)));
  outcome_.findings.back().cls = FindingClass::kInconclusive;
}

bool RunComparison::is_compared(const Place& place) const {
  const auto shows = [&](const trace::Trace* trace) { return is_shown(*trace, place.tap); };
  const bool is_loaded = trace::find_tap(place.tap)->phase == "load";
  return std::ranges::any_of(place.batch.controls, shows) || (!is_loaded && shows(&place.batch.run));
}

void RunComparison::count(const Place& place) {
  ++num_taps_;
  for (const trace::RankTrace& rank : place.batch.run.ranks)
    if (const auto* tensor = rank.tensor(place.tap)) outcome_.compared += tensor->numel();
}

void RunComparison::compare_bits(const Batch& batch) {
  const bool is_known = static_cast<std::int64_t>(batch.controls.size()) >= tolerance::kFewestControls;
  for (const trace::TapPoint& tap : trace::tap_points()) {
    const Place place{tap.name, batch};
    if (!is_compared(place)) continue;
    count(place);
    if (is_same(batch.run, *batch.controls.front(), tap.name)) continue;
    if (!is_known && batch.witness != nullptr && is_same(batch.run, *batch.witness, tap.name)) continue;
    ++num_different_;
    if (is_known) blame_ranks(place);
    else leave_open(place, fmt::format("differs from {}; one run does not tell whether the subject repeats itself", runs_.controls.front()->life.name));
  }
}

void RunComparison::look_at_choices(const Batch& batch) {
  const auto chooses_alike = [&](const trace::Trace* control) { return is_same(batch.run, *control, kChoices); };
  if (!std::ranges::all_of(batch.controls, chooses_alike)) has_parted_ = true;
}

// Kind by kind, in stage order. Noise that makes one run choose another expert leaves nothing to compare but the data.
void RunComparison::compare_noise(const Batch& batch) {
  const bool had_parted = has_parted_;
  look_at_choices(batch);
  std::vector<std::string_view> kinds;
  std::map<std::string_view, std::vector<std::string_view>> taps;
  for (const trace::TapPoint& tap : trace::tap_points()) {
    const std::string_view kind = kind_of(tap.name);
    const bool is_comparable = !has_parted_ || kind == kind_of(kTokens) || (!had_parted && tap.phase == "load");
    if (!is_comparable || !is_compared({tap.name, batch})) continue;
    count({tap.name, batch});
    if (std::ranges::find(kinds, kind) == kinds.end()) kinds.push_back(kind);
    taps[kind].push_back(tap.name);
  }
  for (const std::string_view kind : kinds) judge_kind(batch, taps[kind]);
  if (has_parted_)
    leave_open({kChoices, batch}, "the controls differ, and not all runs choose the same experts any more: what follows from that is not compared");
}

// How far from the nearest control, and how far are these apart?
void RunComparison::judge_kind(const Batch& batch, const std::vector<std::string_view>& taps) {
  const NoiseScale scale(taps, batch.controls, runs_.run.life.one.problem.dtype);
  Distance distance;
  distance.nearest.distance = std::numeric_limits<double>::quiet_NaN();
  distance.of_rounding = scale.of_rounding();
  for (std::size_t i = 0; i < batch.controls.size(); ++i) {
    const Apart apart = scale.apart(batch.run, *batch.controls[i]);
    const bool is_nearer = apart.distance < distance.nearest.distance || std::isnan(distance.nearest.distance);
    if (!is_nearer) continue;
    distance.nearest = apart;
    distance.control = i;
  }
  if (distance.nearest.distance == 0) return;
  const auto differs = [&](std::string_view tap) {
    return std::ranges::none_of(batch.controls, [&](const trace::Trace* other) { return is_same(batch.run, *other, tap); });
  };
  num_different_ += std::ranges::count_if(taps, differs);
  for (std::size_t i = 0; i < batch.controls.size(); ++i)
    for (std::size_t j = 0; j < i; ++j)
      if (std::isfinite(distance.farthest.distance)) distance.farthest = farther(distance.farthest, scale.apart(*batch.controls[i], *batch.controls[j]));
  judge_distance({distance.nearest.tap, batch}, distance);
}

void RunComparison::judge_distance(const Place& place, const Distance& distance) {
  const auto num_controls = static_cast<std::int64_t>(place.batch.controls.size());
  const auto& [nearest, farthest, of_rounding, control] = distance;
  if (!std::isfinite(farthest.distance)) return leave_open(place, "the controls are not all finite and of one shape: nothing can be said of this run");
  // Controls that agree here by chance do not make noise of a last bit a bug.
  const double envelope = std::max(farthest.distance, of_rounding);
  const auto verdict = tolerance::judge_envelope({nearest.distance, envelope, num_controls, farthest.num_elements});
  const std::string_view kind = kind_of(place.tap);
  if (!said_.insert({verdict, verdict == EnvelopeVerdict::kBeyond ? "" : kind}).second) return;
  std::string message = fmt::format("{} is {:.3g} from the nearest of {} controls, which are up to {:.3g} apart (in root mean squares of each tap)", kind,
                                    nearest.distance, num_controls, farthest.distance);
  if (verdict == EnvelopeVerdict::kWithin) message += usual_text(distance, num_controls);
  const bool is_bug = verdict == EnvelopeVerdict::kBeyond;
  auto finding = is_bug ? finding_on_rank(place, nearest.rank, *place.batch.controls[control], message) : finding_at(place, message);
  if (!is_bug) finding.cls = verdict == EnvelopeVerdict::kWithin ? FindingClass::kNoise : FindingClass::kInconclusive;
  finding.measured = nearest.distance;
  finding.bound = envelope;
  finding.used = tolerance::used(nearest.distance, envelope);
  outcome_.findings.push_back(std::move(finding));
}

CheckOutcome RunComparison::outcome() {
  const std::string of_all = fmt::format("{} of {} taps differ", num_different_, num_taps_);
  for (record::Finding& finding : outcome_.findings)
    if (record::is_failure(finding)) finding.message += fmt::format("; in all {}", of_all);
  if (num_taps_ > 0) outcome_.note = of_all;
  return std::move(outcome_);
}

Batch batch_of(const ComparedRuns& runs, Dim number) {
  const auto at = static_cast<std::size_t>(number);
  const bool is_witnessed = runs.witness != nullptr && at < runs.witness->batches.size();
  Batch batch{number, runs.run.batches[at], {}, is_witnessed ? &runs.witness->batches[at] : nullptr};
  for (const LifeInput* control : runs.controls) batch.controls.push_back(&control->batches[at]);
  return batch;
}

bool are_controls_alike(const ComparedRuns& runs, Dim num_batches) {
  for (Dim b = 0; b < num_batches; ++b) {
    const Batch batch = batch_of(runs, b);
    for (const trace::Trace* control : batch.controls)
      for (const trace::TapPoint& tap : trace::tap_points())
        if (!is_same(*batch.controls.front(), *control, tap.name)) return false;
  }
  return true;
}

CheckOutcome compare_noisy_runs(RunComparison comparison, const ComparedRuns& runs, Dim num_batches) {
  for (Dim b = 0; b < num_batches; ++b) {
    Batch batch = batch_of(runs, b);
    // What a resumed run did before it was saved.
    if (b < runs.first_batch) {
      comparison.look_at_choices({b, batch.witness != nullptr ? *batch.witness : batch.run, batch.controls, nullptr});
      continue;
    }
    std::deque<trace::Trace> sorted = {in_key_order(batch.run)};
    for (const trace::Trace*& control : batch.controls) control = &sorted.emplace_back(in_key_order(*control));
    comparison.compare_noise({b, sorted.front(), batch.controls, nullptr});
  }
  return comparison.outcome();
}

}  // namespace

CheckOutcome compare_runs(std::string_view check, const ComparedRuns& runs) {
  MOECHECK_REQUIRE(!runs.controls.empty());
  RunComparison comparison(check, runs);
  auto num_batches = static_cast<Dim>(runs.run.batches.size());
  for (const LifeInput* control : runs.controls) num_batches = std::min(num_batches, static_cast<Dim>(control->batches.size()));
  const bool is_known = static_cast<std::int64_t>(runs.controls.size()) >= tolerance::kFewestControls;
  if (is_known && !are_controls_alike(runs, num_batches)) return compare_noisy_runs(std::move(comparison), runs, num_batches);
  for (Dim b = runs.first_batch; b < num_batches; ++b) comparison.compare_bits(batch_of(runs, b));
  return comparison.outcome();
}

}  // namespace moecheck::check
