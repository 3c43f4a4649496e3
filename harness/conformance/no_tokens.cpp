// A rank that has no token.
#include <algorithm>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "harness/conformance/declared.h"
#include "harness/conformance/item.h"
#include "harness/conformance/trial.h"

namespace moecheck::conformance {

ItemResult no_tokens(Trial& trial) {
  std::vector<driver::IdentifiedCase> cases;
  for (const subject::ImplementationInfo& impl : trial.capabilities().implementations)
    for (const std::string& dim : impl.mesh_dims) {
      const std::string mesh = dim + "=2";
      if (auto one = trial.case_of(fmt::format("{} tokens=7,0 tokens_over={}", basic_case(trial.capabilities(), impl, mesh),
                                               tokens_over_all(mesh))))
        cases.push_back(*std::move(one));
    }
  if (cases.empty()) return not_applicable("no implementation shares tokens out over ranks");
  const auto records = trial.run(cases);
  if (!records) return failed(records.error().text());
  std::vector<std::string> refused;
  for (const record::CaseRecord& record : *records) {
    if (record.verdict == record::Verdict::kPass) continue;
    if (record.verdict != record::Verdict::kUnsupported || record.reason.empty())
      return failed(fmt::format("{}; a rank without a token has to take part in every collective with nothing, "
                                "or the case to be refused", record_text(record)));
    refused.push_back(fmt::format("refused: {}: {}", record.id, record.reason));
  }
  if (refused.size() == cases.size()) return not_applicable(fmt::format("all such cases are refused; the first: {}", refused.front()));
  return ok(fmt::format("{} cases pass", cases.size() - refused.size()), std::move(refused));
}

}  // namespace moecheck::conformance
