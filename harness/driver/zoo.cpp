#include "harness/driver/zoo.h"

#include <algorithm>

#include <fmt/format.h>

namespace moecheck::driver {

std::vector<std::string> missed_catches(const subject::FaultInfo& fault, const record::CaseRecord& record) {
  std::vector<std::string> missed;
  for (const subject::ExpectedCatch& expected : fault.expected) {
    const bool is_caught = std::ranges::any_of(record.findings, [&](const record::Finding& finding) {
      return record::is_failure(finding) && finding.check == expected.check && finding.stage == expected.stage &&
             (!expected.rank || finding.rank == expected.rank) && (!expected.expert || finding.expert == expected.expert);
    });
    if (!is_caught) missed.push_back(catch_text(expected));
  }
  if (fault.expected.empty()) missed.emplace_back("the fault names no check that catches it");
  return missed;
}

std::string catch_text(const subject::ExpectedCatch& expected) {
  std::string text = fmt::format("{} at {}", expected.check, expected.stage);
  if (expected.rank) text += fmt::format(", rank {}", *expected.rank);
  if (expected.expert) text += fmt::format(", expert {}", *expected.expert);
  return text;
}

}  // namespace moecheck::driver
