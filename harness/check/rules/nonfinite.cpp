// Proves:       no NaN or Inf arises where the stage's inputs are finite, nor in any parameter.
// Cannot prove: that finite memory was written by the computation that should have.
// Reads:        every floating-point tap      Applies when: always
#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "harness/check/nonfinite_scan.h"
#include "harness/check/place.h"
#include "harness/check/readable.h"
#include "harness/trace/tap_points.h"

namespace moecheck::check {
namespace {

constexpr std::string_view kName = "nonfinite";
constexpr std::size_t kMaxFindings = 8;
constexpr std::string_view kRows = "dispatch/rows_R3";

struct Blame {
  std::int64_t count = 0;
  std::int64_t first = -1;
};

// Elements that are not finite though the reference, fed with the same inputs, is; padding rows hold anything.
Blame blame_of(const base::HostTensor& got, const trace::ExpectedTap* expected, const base::HostTensor* rows_R3) {
  Blame blame;
  const std::int64_t columns = got.dim(0) == 0 ? 1 : got.numel() / got.dim(0);
  const bool is_known = expected != nullptr && expected->value.shape() == got.shape();
  for (std::int64_t i = 0; i < got.numel(); ++i) {
    if (std::isfinite(got.at(i))) continue;
    if (is_known && !std::isfinite(expected->value.at(i))) continue;
    if (rows_R3 != nullptr && is_padding(row_key(*rows_R3, i / columns))) continue;
    if (blame.count++ == 0) blame.first = i;
  }
  return blame;
}

// A NaN in the combined output that no computed row explains: which slot's row was combined without having been written?
void explain_combine(const CheckInput& input, const Readable& taps, Dim row_S, record::Finding& finding) {
  const Dim rank = *finding.rank;
  const base::HostTensor* rows_R3 = taps.get(rank, kRows);
  const base::HostTensor* out_RD = taps.get(rank, "experts/out_RD");
  for (Dim row = 0; rows_R3 != nullptr && out_RD != nullptr && row < out_RD->dim(0); ++row) {
    const RowKey key = row_key(*rows_R3, row);
    if (key.token != finding.token || is_padding(key)) continue;
    for (Dim d = 0; d < out_RD->dim(1); ++d) {
      if (std::isfinite(out_RD->at(row * out_RD->dim(1) + d))) continue;
      set_place(key, finding);
      finding.hypothesis = "the row of this expert is not finite already";
      return;
    }
  }
  const base::HostTensor* local_ids = taps.get(rank, "dispatch/ids_TK");
  if (local_ids == nullptr || !finding.token || row_S >= local_ids->dim(0)) return;
  const GroupRouting routing(input, rank);
  for (Dim slot = 0; slot < local_ids->dim(1); ++slot) {
    if (local_ids->int_at(row_S * local_ids->dim(1) + slot) < trace::local_experts(input.one.problem, rank).count) continue;
    set_place({*finding.token, slot, routing.expert_of(*finding.token, slot)}, finding);
    finding.hypothesis = "row of a non-local expert's slot was never written; its memory was multiplied by 0";
    return;
  }
}

void look_at(const CheckInput& input, const Readable& taps, const trace::TapPoint& tap, const trace::RankTrace& rank,
             CheckOutcome& outcome) {
  const base::HostTensor* got = rank.tensor(tap.name);
  if (got == nullptr || !base::is_floating(got->dtype()) || got->shape().empty()) return;
  outcome.compared += got->numel();
  if (outcome.findings.size() >= kMaxFindings || !has_nonfinite(*got)) return;
  const base::HostTensor* rows_R3 = tap.kind == trace::TapKind::kRows ? taps.get(rank.rank, kRows) : nullptr;
  const bool is_keyed = rows_R3 != nullptr && rows_R3->dim(0) == got->dim(0);
  const Blame blame = blame_of(*got, expected_tap(input, rank.rank, tap.name), is_keyed ? rows_R3 : nullptr);
  if (blame.count == 0) return;
  const std::int64_t row = blame.first / (got->numel() / got->dim(0));
  auto finding = make_finding(kName, tap.name, rank.rank, fmt::format("{} of {} elements are NaN or Inf, first in row {}",
                                                                      blame.count, got->numel(), row));
  finding.got = got->at(blame.first);
  finding.measured = static_cast<double>(blame.count);
  finding.bound = 0;
  finding.compared = got->numel();
  set_place(input, tap.name, row, finding);
  if (tap.name == "combine/partial_TD") explain_combine(input, taps, row, finding);
  outcome.findings.push_back(std::move(finding));
}

CheckOutcome run(const CheckInput& input) {
  CheckOutcome outcome;
  const Readable taps(input, kName, {});
  const auto shows_nothing = [](const trace::RankTrace& rank) { return rank.taps.empty(); };
  if (std::ranges::all_of(input.observed.ranks, shows_nothing)) {
    outcome.state = record::CheckState::kUnobserved;
    outcome.note = "no rank shows a tap";
    return outcome;
  }
  for (const trace::TapPoint& tap : trace::tap_points()) {
    // What a later batch begins with was looked at before: as it was loaded, or as its step left it.
    if (tap.phase == "load" && !input.one.is_first(input.batch)) continue;
    for (const trace::RankTrace& rank : input.observed.ranks) look_at(input, taps, tap, rank, outcome);
  }
  conclude(outcome, "every tap is empty");
  return outcome;
}

MOECHECK_REGISTER_CHECK({kName,
                         {"no NaN or Inf arises where the stage's inputs are finite, nor in any parameter",
                          "that finite memory was written by the computation that should have",
                          "every floating-point tap", "always"},
                         run});

}  // namespace
}  // namespace moecheck::check
