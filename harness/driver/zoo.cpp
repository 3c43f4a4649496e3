#include "harness/driver/zoo.h"

#include <algorithm>

#include <fmt/format.h>

namespace moecheck::driver {

namespace {

// A bug is caught by a failure. A control is not: what it does is told to be noise, or not to be told.
bool is_of_kind(const record::Finding& finding, bool is_control) {
  if (!is_control) return record::is_failure(finding);
  return finding.cls == record::FindingClass::kNoise || finding.cls == record::FindingClass::kInconclusive;
}

bool meets(const record::Finding& finding, const subject::ExpectedCatch& expected, bool is_control) {
  return is_of_kind(finding, is_control) && finding.check == expected.check && finding.stage == expected.stage &&
         (!expected.rank || finding.rank == expected.rank) && (!expected.expert || finding.expert == expected.expert);
}

}  // namespace

std::vector<std::string> missed_catches(const subject::FaultInfo& fault, const record::CaseRecord& record) {
  std::vector<std::string> missed;
  for (const subject::ExpectedCatch& expected : fault.expected) {
    const bool is_met = std::ranges::any_of(record.findings, [&](const auto& finding) { return meets(finding, expected, fault.is_control); });
    if (!is_met) missed.push_back(fault.is_control ? "no noise: " + catch_text(expected) : catch_text(expected));
  }
  if (fault.expected.empty()) missed.emplace_back("the fault names no check that catches it");
  if (fault.is_control && record.verdict != record::Verdict::kPass) missed.emplace_back("a control is no bug: the case must pass");
  return missed;
}

std::string catch_text(const subject::ExpectedCatch& expected) {
  std::string text = fmt::format("{} at {}", expected.check, expected.stage);
  if (expected.rank) text += fmt::format(", rank {}", *expected.rank);
  if (expected.expert) text += fmt::format(", expert {}", *expected.expert);
  return text;
}

}  // namespace moecheck::driver
