// JUnit XML in the dialect that GitLab, Jenkins and the GitHub actions for test reports read: testsuites > testsuite per
// scenario > testcase, with one of failure, error and skipped. There is no official schema; elements keep the order that
// the strictest of the known ones asks for.
#include <algorithm>

#include <fmt/format.h>

#include "reports/escape.h"
#include "reports/report.h"
#include "reports/words.h"

namespace moecheck::reports {
namespace {

using record::CaseRecord;
using record::RunRecord;
using record::Verdict;

enum class Outcome { kPassed, kFailure, kError, kSkipped };

Outcome outcome_of(Verdict verdict) {
  if (record::is_failure(verdict)) return Outcome::kFailure;
  switch (verdict) {
    case Verdict::kPass: return Outcome::kPassed;
    // JUnit has no word for it, and it must not look tested.
    case Verdict::kInconclusive:
    case Verdict::kError: return Outcome::kError;
    default: return Outcome::kSkipped;
  }
}

struct NumberedCase {
  const CaseRecord* record = nullptr;
  std::size_t number = 0;  // position in the run, from 1
};

struct Suite {
  std::string scenario;
  std::vector<NumberedCase> cases;
};

// In order of first appearance, so that the file of one run can be compared with that of the next.
std::vector<Suite> suites_of(const RunRecord& run) {
  std::vector<Suite> suites;
  for (std::size_t i = 0; i < run.cases.size(); ++i) {
    const std::string& scenario = run.cases[i].scenario;
    auto found = std::ranges::find(suites, scenario, &Suite::scenario);
    if (found == suites.end()) found = suites.insert(suites.end(), Suite{scenario, {}});
    found->cases.push_back({&run.cases[i], i + 1});
  }
  return suites;
}

std::string property(std::string_view name, std::string_view value) {
  return fmt::format("<property name=\"{}\" value=\"{}\"/>\n", escape_xml_line(name),
                     escape_xml_line(value));
}

std::string outcome_xml(const NumberedCase& one, std::size_t total) {
  const CaseRecord& record = *one.record;
  const Outcome outcome = outcome_of(record.verdict);
  if (outcome == Outcome::kPassed) return "";
  const auto verdict = record::verdict_name(record.verdict);
  const std::string gist_line = gist(record);
  const std::string message = escape_xml_line(gist_line.empty() ? verdict : std::string_view(gist_line));
  if (outcome == Outcome::kSkipped)
    return fmt::format("      <skipped message=\"{}: {}\"/>\n", verdict, message);
  const std::string_view element = outcome == Outcome::kFailure ? "failure" : "error";
  return fmt::format("      <{} message=\"{}\" type=\"{}\">{}</{}>\n", element, message, verdict,
                     escape_xml(console_case(record, one.number, total, false)), element);
}

std::string testcase_xml(const NumberedCase& one, std::size_t total) {
  const CaseRecord& record = *one.record;
  std::string xml =
      fmt::format("    <testcase classname=\"{}\" name=\"{}\" time=\"{:.3f}\">\n      <properties>\n",
                  escape_xml_line(record.scenario), escape_xml_line(record.id), record.seconds);
  xml += "        " + property("verdict", record::verdict_name(record.verdict));
  for (const auto& [knob, value] : record.config) xml += "        " + property(knob, value);
  if (!record.first_diverging.empty()) xml += "        " + property("first_diverging", record.first_diverging);
  if (!record.repro.empty()) xml += "        " + property("repro", record.repro);
  return xml + "      </properties>\n" + outcome_xml(one, total) + "    </testcase>\n";
}

std::string counts_xml(const std::vector<NumberedCase>& cases) {
  double seconds = 0;
  std::size_t num_failures = 0;
  std::size_t num_errors = 0;
  std::size_t num_skipped = 0;
  for (const NumberedCase& one : cases) {
    const Outcome outcome = outcome_of(one.record->verdict);
    seconds += one.record->seconds;
    num_failures += outcome == Outcome::kFailure ? 1 : 0;
    num_errors += outcome == Outcome::kError ? 1 : 0;
    num_skipped += outcome == Outcome::kSkipped ? 1 : 0;
  }
  return fmt::format("tests=\"{}\" failures=\"{}\" errors=\"{}\" skipped=\"{}\" time=\"{:.3f}\"", cases.size(), num_failures,
                     num_errors, num_skipped, seconds);
}

std::string suite_xml(const Suite& suite, const RunRecord& run) {
  std::string xml =
      fmt::format("  <testsuite name=\"{}\" {}", escape_xml_line(suite.scenario), counts_xml(suite.cases));
  if (!run.started.empty()) xml += fmt::format(" timestamp=\"{}\"", escape_xml_line(run.started));
  xml += ">\n    <properties>\n";
  xml += "      " + property("moecheck_version", run.moecheck_version);
  xml += "      " + property("subject", run.subject);
  xml += "      " + property("command", run.command);
  xml += "    </properties>\n";
  for (const NumberedCase& one : suite.cases) xml += testcase_xml(one, run.cases.size());
  return xml + "  </testsuite>\n";
}

std::string render_junit(const RunRecord& run) {
  const auto suites = suites_of(run);
  std::vector<NumberedCase> all;
  for (const Suite& suite : suites) all.insert(all.end(), suite.cases.begin(), suite.cases.end());
  std::string xml = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";
  xml += fmt::format("<testsuites name=\"moecheck\" {}>\n", counts_xml(all));
  for (const Suite& suite : suites) xml += suite_xml(suite, run);
  return xml + "</testsuites>\n";
}

constexpr Format kFormat{"junit", "junit.xml", &render_junit};
MOECHECK_REGISTER_FORMAT(kFormat);

}  // namespace
}  // namespace moecheck::reports
