#include "harness/driver/layout_invariance.h"

#include <algorithm>
#include <array>
#include <map>
#include <optional>

#include <fmt/format.h>

#include "harness/cases/case.h"
#include "harness/cases/fields.h"
#include "harness/trace/tap_points.h"

namespace moecheck::driver {
namespace {

using record::CaseRecord;
using record::Finding;

// What a layout may choose. The tokens' split and the axis of the mesh are told apart by what they amount to; the family only lends
// its sizes, which have knobs of their own.
constexpr std::array<std::string_view, 10> kOfTheLayout = {"impl",      "mesh",   "tokens", "tokens_over", "expert_tp", "experts_backend",
                                                           "recompute", "device", "model",  "fault"};

// The case that a record is of, without its family; none if a knob is not one of ours (of an older record).
std::optional<cases::Case> case_of(const CaseRecord& record) {
  cases::Case one;
  for (const auto& [knob, value] : record.config) {
    const cases::Field* field = cases::find_field(knob);
    if (field == nullptr) return std::nullopt;
    const auto canonical = cases::canonical_text(*field, value);
    if (!canonical || !field->set(one, *canonical)) return std::nullopt;
  }
  return one;
}

bool depends_on_mesh(model::Routing routing) {
  return routing == model::Routing::kIdleRank || routing == model::Routing::kKRanks || routing == model::Routing::kOneRank;
}

// Equal texts: the same problem.
std::string problem_text(const CaseRecord& record, const cases::Case& one) {
  std::string text = fmt::format("tokens in all={}", one.problem.total_tokens());
  if (depends_on_mesh(one.problem.routing)) text += fmt::format(" ep={}", one.problem.mesh.size("ep"));
  for (const auto& [knob, value] : record.config)
    if (std::ranges::find(kOfTheLayout, knob) == kOfTheLayout.end()) text += fmt::format(" {}={}", knob, value);
  return text;
}

struct Candidate {
  std::size_t index = 0;
  const CaseRecord* record = nullptr;
  bool is_sound = true;   // no fault
};

std::map<std::string, std::vector<Candidate>> by_problem(std::span<const CaseRecord> cases) {
  std::map<std::string, std::vector<Candidate>> groups;
  for (std::size_t i = 0; i < cases.size(); ++i) {
    const bool has_passed = cases[i].verdict == record::Verdict::kPass || cases[i].verdict == record::Verdict::kXpass;
    if (!has_passed || cases[i].digests.empty()) continue;
    if (const auto one = case_of(cases[i]); one) groups[problem_text(cases[i], *one)].push_back({i, &cases[i], one->fault.empty()});
  }
  return groups;
}

// The sound cases that have most sound cases' digest of the tap; ties: the first one's. Empty if nobody has one.
std::vector<const CaseRecord*> usual_cases(const std::vector<Candidate>& group, const std::string& tap) {
  std::vector<std::pair<std::string, std::vector<const CaseRecord*>>> kinds;   // in the order of their first cases
  for (const Candidate& one : group) {
    const auto digest = one.record->digests.find(tap);
    if (!one.is_sound || digest == one.record->digests.end()) continue;
    auto kind = std::ranges::find(kinds, digest->second, &std::pair<std::string, std::vector<const CaseRecord*>>::first);
    if (kind == kinds.end()) kind = kinds.insert(kinds.end(), {digest->second, {}});
    kind->second.push_back(one.record);
  }
  const auto most = std::ranges::max_element(kinds, {}, [](const auto& kind) { return kind.second.size(); });
  return most == kinds.end() ? std::vector<const CaseRecord*>{} : most->second;
}

std::vector<LayoutFinding> differences(const std::vector<Candidate>& group, const std::string& tap) {
  std::vector<LayoutFinding> found;
  const auto usual = usual_cases(group, tap);
  if (usual.empty()) return found;
  for (const Candidate& one : group) {
    const auto digest = one.record->digests.find(tap);
    if (digest == one.record->digests.end() || digest->second == usual.front()->digests.at(tap)) continue;
    Finding finding;
    finding.check = kLayoutInvariance;
    finding.stage = tap;
    finding.tensor = tap;
    finding.compared = static_cast<std::int64_t>(usual.size());
    finding.message = fmt::format("the global tensor is not bit for bit that of the same problem in another layout: {}{}", usual.front()->id,
                                  usual.size() > 1 ? fmt::format(" and {} more", usual.size() - 1) : "");
    found.push_back({one.index, std::move(finding)});
  }
  return found;
}

}  // namespace

std::vector<LayoutFinding> layout_findings(std::span<const CaseRecord> cases) {
  std::vector<LayoutFinding> found;
  for (const auto& [problem, group] : by_problem(cases))
    for (const trace::TapPoint& tap : trace::tap_points())
      for (LayoutFinding& one : differences(group, std::string(tap.name))) found.push_back(std::move(one));
  std::ranges::stable_sort(found, {}, &LayoutFinding::index);
  return found;
}

CaseRecord with_layout_finding(CaseRecord one, Finding finding) {
  if (one.first_diverging.empty()) one.first_diverging = finding.stage;
  const auto first_harmless = std::ranges::find_if(one.findings, [](const Finding& f) { return !record::is_failure(f); });
  one.findings.insert(first_harmless, std::move(finding));
  one.verdict = record::Verdict::kFail;
  one.reason.clear();
  return one;
}

}  // namespace moecheck::driver
