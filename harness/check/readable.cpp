#include "harness/check/readable.h"

#include <algorithm>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "harness/check/compare.h"
#include "harness/trace/tap_points.h"

namespace moecheck::check {
namespace {

// -1 in `declared` stands for any size.
bool fits(const base::Shape& shape, const base::Shape& declared) {
  return std::ranges::equal(shape, declared, [](Dim got, Dim want) { return want == -1 || got == want; });
}

bool is_any_shown(const CheckInput& input, std::string_view tap) {
  return std::ranges::any_of(input.observed.ranks, [&](const trace::RankTrace& rank) { return rank.find(tap) != nullptr; });
}

bool is_written_in_batch(const CheckInput& input, std::string_view phase) {
  if (phase == "load" && !input.one.is_first(input.batch)) return false;
  return input.one.has_phase(phase) && (phase != "step" || input.one.ends_step(input.batch));
}

// Whether this kind of layer and optimizer has the tap at all.
bool is_of_kind(const CheckInput& input, std::string_view tap) {
  const cases::Training& training = input.one.training;
  const bool is_adamw = training.optimizer == cases::OptimizerKind::kAdamW;
  if (tap == "dispatch/tokens_S" || tap == "combine/rows_N3") return is_any_shown(input, tap);
  if (tap == "dispatch/scores_TK" || tap == "dispatch/ids_TK") return !is_all_to_all(input);
  if (tap.starts_with("optim/v/") || tap == "optim/steps_3") return is_adamw;
  // sgd without momentum keeps no buffer, or one that nothing reads.
  if (tap.starts_with("optim/m/")) return is_adamw || training.momentum != 0 || is_any_shown(input, tap);
  return true;
}

}  // namespace

Readable::Readable(const CheckInput& input, std::string_view check, std::vector<std::string_view> needed,
                   std::vector<std::string_view> optional)
    : input_(input), check_(check) {
  for (const auto tap : needed) look_at(tap, true);
  for (const auto tap : optional) look_at(tap, false);
}

void Readable::look_at(std::string_view tap, bool is_needed) {
  if (!is_any_shown(input_, tap)) {
    if (is_needed) absent_.push_back(tap);
    return;
  }
  for (Dim rank = 0; rank < input_.one.world_size(); ++rank) look_at_rank(tap, rank, is_needed);
}

void Readable::look_at_rank(std::string_view tap, Dim rank, bool is_needed) {
  const trace::RankTrace* seen = rank_trace(input_, rank);
  const base::HostTensor* tensor = seen == nullptr ? nullptr : seen->tensor(tap);
  if (tensor != nullptr) {
    std::string why = misfit(input_.one.problem, tap, *seen, *tensor);
    if (!why.empty()) report(tap, rank, std::move(why));
  } else if (is_needed && !was_cut_short(input_)) {
    report(tap, rank, fmt::format("rank {} does not show this tap, other ranks do", rank));
  }
}

void Readable::report(std::string_view tap, Dim rank, std::string message) {
  findings_.push_back(make_finding(check_, tap, rank, std::move(message)));
}

const base::HostTensor* Readable::get(Dim rank, std::string_view tap) const { return fitting_tensor(input_, rank, tap); }

CheckOutcome Readable::unobserved() const {
  CheckOutcome outcome;
  outcome.state = record::CheckState::kUnobserved;
  outcome.note = fmt::format("no rank shows {}", fmt::join(absent_, ", "));
  return outcome;
}

std::string Readable::absence_note() const {
  return absent_.empty() ? "" : fmt::format("not shown by any rank: {}", fmt::join(absent_, ", "));
}

std::vector<std::string_view> asked_taps(const CheckInput& input, std::span<const std::string_view> taps) {
  std::vector<std::string_view> asked;
  for (const std::string_view tap : taps)
    if (is_written_in_batch(input, trace::find_tap(tap)->phase) && is_of_kind(input, tap)) asked.push_back(tap);
  return asked;
}

bool is_all_to_all(const CheckInput& input) { return is_any_shown(input, "combine/rows_N3"); }

const trace::RankTrace* rank_trace(const CheckInput& input, Dim rank) {
  const auto& ranks = input.observed.ranks;
  return rank < static_cast<Dim>(ranks.size()) ? &ranks[static_cast<std::size_t>(rank)] : nullptr;
}

const trace::ExpectedTap* expected_tap(const CheckInput& input, Dim rank, std::string_view tap) {
  if (rank >= static_cast<Dim>(input.expected.ranks.size())) return nullptr;
  const auto& taps = input.expected.ranks[static_cast<std::size_t>(rank)].taps;
  const auto found = taps.find(tap);
  return found == taps.end() ? nullptr : &found->second;
}

const trace::WholeTap* whole_tap(const CheckInput& input, Dim rank, std::string_view tap) {
  if (rank >= static_cast<Dim>(input.expected.ranks.size())) return nullptr;
  const auto& taps = input.expected.ranks[static_cast<std::size_t>(rank)].whole;
  const auto found = taps.find(tap);
  return found == taps.end() ? nullptr : &found->second;
}

bool is_exact(const CheckInput& input) {
  return input.one.problem.values == model::Values::kExact && input.one.step_of(input.batch) == 0;
}

bool was_cut_short(const CheckInput& input) {
  return !input.phase_failures.empty() || input.mismatch || std::ranges::any_of(input.observed.ranks, &trace::RankTrace::aborted);
}

std::string misfit(const model::Problem& problem, std::string_view tap, const trace::RankTrace& shown_by, const base::HostTensor& tensor) {
  const auto declared = trace::declared_shape(problem, tap, shown_by.rank, trace::shown_sizes(problem, shown_by));
  if (!declared) return "";
  if (!fits(tensor.shape(), *declared))
    return fmt::format("shape {}, declared {} by the mesh {}", base::shape_text(tensor.shape()), base::shape_text(*declared),
                       problem.mesh.text());
  const bool is_integer = trace::find_tap(tap)->element == trace::ElementKind::kInteger;
  if (is_integer == base::is_floating(tensor.dtype()))
    return fmt::format("elements are {}, declared {}", base::knob_name(tensor.dtype()), is_integer ? "int64" : "floating point");
  return "";
}

const base::HostTensor* fitting_tensor(const CheckInput& input, Dim rank, std::string_view tap) {
  const trace::RankTrace* seen = rank_trace(input, rank);
  const base::HostTensor* tensor = seen == nullptr ? nullptr : seen->tensor(tap);
  if (tensor == nullptr) return nullptr;
  return misfit(input.one.problem, tap, *seen, *tensor).empty() ? tensor : nullptr;
}

std::vector<record::Finding> wrong_dtypes(const CheckInput& input, std::string_view check) {
  std::vector<record::Finding> findings;
  for (const trace::RankTrace& rank : input.observed.ranks)
    for (const auto& [name, tapped] : rank.taps) {
      const base::DType dtype = tapped.tensor.dtype();
      if (trace::find_tap(name) == nullptr || !base::is_floating(dtype)) continue;
      const base::DType declared = store_of(input.one, name);
      if (dtype == declared || !base::is_floating(declared)) continue;   // a wrong kind of element is a misfit already
      findings.push_back(make_finding(check, name, rank.rank, fmt::format("elements are {}, declared {}", base::knob_name(dtype),
                                                                          base::knob_name(declared))));
      findings.back().cls = record::FindingClass::kContract;
    }
  return findings;
}

record::Finding make_finding(std::string_view check, std::string_view stage, Dim rank, std::string message) {
  record::Finding finding;
  finding.check = check;
  finding.stage = stage;
  finding.rank = rank;
  finding.message = std::move(message);
  return finding;
}

void conclude(CheckOutcome& outcome, std::string_view vacuous_note) {
  if (std::ranges::any_of(outcome.findings, [](const record::Finding& f) { return record::is_failure(f); })) {
    outcome.state = record::CheckState::kFail;
  } else if (outcome.compared == 0) {
    outcome.state = record::CheckState::kVacuous;
    outcome.note = vacuous_note;
  } else {
    outcome.state = record::CheckState::kPass;
  }
}

}  // namespace moecheck::check
