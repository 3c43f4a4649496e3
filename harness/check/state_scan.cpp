#include "harness/check/state_scan.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "harness/check/compare.h"
#include "harness/check/life_state.h"
#include "harness/check/readable.h"
#include "harness/trace/tap_points.h"

namespace moecheck::check {
namespace {

// What a loader leaves in the elements that nothing was read into.
constexpr std::int64_t kBlankInteger = std::numeric_limits<std::int64_t>::min();

bool is_param(std::string_view tap) { return trace::find_tap(tap)->kind == trace::TapKind::kParam; }

bool is_blank(const base::HostTensor& tensor, std::int64_t i) {
  return base::is_floating(tensor.dtype()) ? std::isnan(tensor.at(i)) : tensor.int_at(i) == kBlankInteger;
}

std::string text_of(const base::HostTensor& tensor, std::int64_t i) {
  return base::is_floating(tensor.dtype()) ? fmt::format("{}", tensor.at(i)) : fmt::format("{}", tensor.int_at(i));
}

// Experts of the save that stand at a rank's places. One whose own rows are damaged there is not lost: the damage has its own words.
std::vector<Dim> held_experts(const model::Problem& problem, Dim rank, const std::vector<Misplaced>& misplaced) {
  const trace::LocalExperts local = trace::local_experts(problem, rank);
  std::vector<Dim> experts;
  for (Dim e = local.first; e < local.first + local.count; ++e) {
    const auto wrong = std::ranges::find(misplaced, e, &Misplaced::expert);
    experts.push_back(wrong != misplaced.end() && wrong->held.expert >= 0 ? wrong->held.expert : e);
  }
  return experts;
}

std::string runs_text(const std::set<Dim>& experts) {
  std::vector<std::string> runs;
  for (auto first = experts.begin(); first != experts.end();) {
    auto last = first;
    auto next = std::next(first);
    while (next != experts.end() && *next == *last + 1) last = next++;
    runs.push_back(range_text("expert", *first, *last));
    first = next;
  }
  return fmt::format("{}", fmt::join(runs, ", "));
}

}  // namespace

std::string StateDifference::also_text() const {
  if (also.empty()) return "";
  return fmt::format(" (and {} more tensor{}: {})", also.size(), also.size() == 1 ? "" : "s", fmt::join(also, ", "));
}

void StateScan::compare(std::string_view tap, const base::HostTensor& whole, const std::vector<const base::HostTensor*>& parts) {
  std::optional<ExpertScan> scan;
  if (is_param(tap)) scan.emplace(problem_, tap, std::make_unique<TensorRows>(whole));
  std::vector<std::vector<Dim>> held(parts.size());
  for (std::size_t r = 0; r < parts.size(); ++r) {
    if (parts[r] == nullptr) continue;
    const auto rank = static_cast<Dim>(r);
    trace::RankTrace shown_by;
    shown_by.rank = rank;
    std::string misfit = check::misfit(problem_, tap, shown_by, *parts[r]);
    if (misfit.empty() && parts[r]->dtype() != whole.dtype())
      misfit = fmt::format("elements are {}, should be {}", base::knob_name(parts[r]->dtype()), base::knob_name(whole.dtype()));
    if (!misfit.empty()) {
      add({tap, rank, std::nullopt, 0, misfit, {}});
      continue;
    }
    compared_ += parts[r]->numel();
    if (scan) held[r] = held_experts(problem_, rank, compare_rows(tap, rank, *scan, *parts[r]));
    else compare_whole(tap, rank, whole, *parts[r]);
  }
  if (whole.shape().size() == 3) look_for_lost(tap, held);
}

void StateScan::compare_all(std::string_view tap, const base::HostTensor& whole, const std::vector<const base::HostTensor*>& parts) {
  for (std::size_t r = 0; r < parts.size(); ++r)
    if (parts[r] == nullptr) add({tap, static_cast<Dim>(r), std::nullopt, 0, "was not restored: this rank does not show the tensor", {}});
  compare(tap, whole, parts);
}

void StateScan::compare_saved(std::string_view tap, const base::HostTensor& saved, const std::vector<const base::HostTensor*>& shown) {
  StateScan as_shown(problem_);
  as_shown.compare(tap, saved, shown);
  compared_ += as_shown.compared_;
  if (as_shown.differences_.empty()) return;
  std::vector<base::HostTensor> in_save(shown.size());
  std::vector<const base::HostTensor*> parts(shown.size(), nullptr);
  for (std::size_t r = 0; r < shown.size(); ++r) {
    const auto rank = static_cast<Dim>(r);
    if (shown[r] == nullptr || (is_param(tap) ? trace::replica_group(problem_, tap, rank).front() : 0) != rank) continue;
    in_save[r] = declared_part(problem_, tap, saved, rank);
    parts[r] = &in_save[r];
  }
  StateScan whose(problem_);
  whose.compare(tap, assembled(problem_, tap, shown), parts);
  // Equal to the first replica: another one differs from both.
  const bool is_of_others = whose.differences_.empty();
  std::ranges::copy(is_of_others ? as_shown.differences_ : whose.differences_, std::back_inserter(differences_));
}

std::vector<Misplaced> StateScan::compare_rows(std::string_view tap, Dim rank, ExpertScan& scan, const base::HostTensor& part) {
  const std::vector<Misplaced> misplaced = scan.misplaced(rank, part);
  const bool is_experts = part.shape().size() == 3;
  for (const MisplacedGroup& group : group_misplaced(misplaced)) {
    if (is_experts) add({tap, rank, group.first, group.wrong_rows, group.message, {}});
    else add({tap, rank, std::nullopt, group.wrong_rows, misplaced.front().held.detail, {}});
  }
  return misplaced;
}

void StateScan::compare_whole(std::string_view tap, Dim rank, const base::HostTensor& whole, const base::HostTensor& part) {
  if (base::same_bytes(whole, part)) return;
  std::int64_t wrong = 0, blank = 0, first = -1;
  for (std::int64_t i = 0; i < whole.numel(); ++i) {
    if (same_element_bits(whole, i, part, i)) continue;
    if (wrong++ == 0) first = i;
    if (is_blank(part, i)) ++blank;
  }
  std::string message = "was never loaded";
  if (blank < wrong) message = fmt::format("is {}, should be {}", text_of(part, first), text_of(whole, first));
  if (blank < wrong && whole.numel() > 1) message = fmt::format("element {} {}", first, message);
  add({tap, rank, std::nullopt, wrong, message, {}});
}

// As many ranks hold an expert as the layout has replicas of it.
void StateScan::look_for_lost(std::string_view tap, const std::vector<std::vector<Dim>>& held) {
  std::map<Dim, Dim> declared, found;
  for (std::size_t r = 0; r < held.size(); ++r) {
    const trace::LocalExperts local = trace::local_experts(problem_, static_cast<Dim>(r));
    for (Dim e = local.first; e < local.first + local.count; ++e) ++declared[e];
    for (const Dim e : held[r]) ++found[e];
  }
  std::set<Dim> lost, too_often;
  for (const auto& [expert, count] : declared) {
    if (found[expert] == 0) lost.insert(expert);
    if (found[expert] > count) too_often.insert(expert);
  }
  if (lost.empty()) return;
  std::string message = fmt::format("nobody holds {}", runs_text(lost));
  if (!too_often.empty()) message += fmt::format("; more ranks than declared hold {}", runs_text(too_often));
  add({tap, std::nullopt, *lost.begin(), 0, message, {}});
}

std::vector<StateDifference> StateScan::differences() const {
  std::vector<StateDifference> merged;
  for (const StateDifference& one : differences_) {
    const auto is_same = [&](const StateDifference& other) { return other.rank == one.rank && other.message == one.message && other.tap != one.tap; };
    const auto same = std::ranges::find_if(merged, is_same);
    if (same == merged.end()) {
      merged.push_back(one);
    } else {
      same->also.push_back(one.tap);
      same->wrong_rows += one.wrong_rows;
    }
  }
  return merged;
}

}  // namespace moecheck::check
