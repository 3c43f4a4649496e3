#include "harness/check/readable.h"

#include <algorithm>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "harness/trace/tap_points.h"

namespace moecheck::check {
namespace {

bool is_integer_tap(std::string_view tap) {
  return tap == "router/ids_TK" || tap == "dispatch/ids_TK" || tap == "dispatch/counts_e" || tap == "dispatch/rows_R3";
}

// -1 in `declared` stands for any size.
bool fits(const base::Shape& shape, const base::Shape& declared) {
  return std::ranges::equal(shape, declared, [](Dim got, Dim want) { return want == -1 || got == want; });
}

}  // namespace

Readable::Readable(const CheckInput& input, std::string_view check, std::vector<std::string_view> needed,
                   std::vector<std::string_view> optional)
    : input_(input), check_(check) {
  for (const auto tap : needed) look_at(tap, true);
  for (const auto tap : optional) look_at(tap, false);
}

void Readable::look_at(std::string_view tap, bool is_needed) {
  const auto& ranks = input_.observed.ranks;
  if (std::ranges::none_of(ranks, [&](const trace::RankTrace& rank) { return rank.find(tap) != nullptr; })) {
    if (is_needed) absent_.push_back(tap);
    return;
  }
  for (Dim rank = 0; rank < input_.one.world_size(); ++rank) look_at_rank(tap, rank, is_needed);
}

void Readable::look_at_rank(std::string_view tap, Dim rank, bool is_needed) {
  const trace::RankTrace* seen = rank_trace(input_, rank);
  const base::HostTensor* tensor = seen == nullptr ? nullptr : seen->tensor(tap);
  if (tensor != nullptr) {
    std::string why = misfit(input_.one.problem, tap, rank, rows_of_rank(input_, rank), *tensor);
    if (!why.empty()) report(tap, rank, std::move(why));
  } else if (is_needed && !was_cut_short(input_)) {
    report(tap, rank, fmt::format("rank {} does not show this tap, other ranks do", rank));
  }
}

void Readable::report(std::string_view tap, Dim rank, std::string message) {
  findings_.push_back(make_finding(check_, tap, rank, std::move(message)));
}

const base::HostTensor* Readable::get(Dim rank, std::string_view tap) const {
  const trace::RankTrace* seen = rank_trace(input_, rank);
  const base::HostTensor* tensor = seen == nullptr ? nullptr : seen->tensor(tap);
  if (tensor == nullptr) return nullptr;
  return misfit(input_.one.problem, tap, rank, rows_of_rank(input_, rank), *tensor).empty() ? tensor : nullptr;
}

CheckOutcome Readable::unobserved() const {
  CheckOutcome outcome;
  outcome.state = record::CheckState::kUnobserved;
  outcome.note = fmt::format("no rank shows {}", fmt::join(absent_, ", "));
  return outcome;
}

std::string Readable::absence_note() const {
  return absent_.empty() ? "" : fmt::format("not shown by any rank: {}", fmt::join(absent_, ", "));
}

std::vector<std::string_view> taps_of_phases(const cases::Case& one, std::span<const std::string_view> taps) {
  std::vector<std::string_view> asked;
  for (const std::string_view tap : taps)
    if (std::ranges::find(one.phases, trace::find_tap(tap)->phase) != one.phases.end()) asked.push_back(tap);
  return asked;
}

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

bool was_cut_short(const CheckInput& input) {
  return !input.phase_failures.empty() || std::ranges::any_of(input.observed.ranks, &trace::RankTrace::aborted);
}

std::string misfit(const model::Problem& problem, std::string_view tap, Dim rank, Dim num_rows, const base::HostTensor& tensor) {
  const auto declared = declared_shape(problem, tap, rank, num_rows);
  if (!declared) return "";
  if (!fits(tensor.shape(), *declared))
    return fmt::format("shape {}, declared {} by the mesh {}", base::shape_text(tensor.shape()), base::shape_text(*declared),
                       problem.mesh.text());
  if (is_integer_tap(tap) == base::is_floating(tensor.dtype()))
    return fmt::format("elements are {}, declared {}", base::knob_name(tensor.dtype()),
                       is_integer_tap(tap) ? "int64" : "floating point");
  return "";
}

Dim rows_of_rank(const CheckInput& input, Dim rank) {
  const trace::RankTrace* seen = rank_trace(input, rank);
  const base::HostTensor* rows = seen == nullptr ? nullptr : seen->tensor("dispatch/rows_R3");
  return rows != nullptr && rows->shape().size() == 2 && rows->dim(1) == 3 ? rows->dim(0) : -1;
}

std::vector<record::Finding> wrong_dtypes(const CheckInput& input, std::string_view check) {
  std::vector<record::Finding> findings;
  for (const trace::RankTrace& rank : input.observed.ranks)
    for (const auto& [name, tapped] : rank.taps) {
      const base::DType dtype = tapped.tensor.dtype();
      const bool is_declared = !base::is_floating(dtype) || dtype == input.one.problem.dtype;
      if (trace::find_tap(name) == nullptr || is_declared) continue;
      findings.push_back(make_finding(check, name, rank.rank, fmt::format("elements are {}, declared {}", base::knob_name(dtype),
                                                                          base::knob_name(input.one.problem.dtype))));
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
