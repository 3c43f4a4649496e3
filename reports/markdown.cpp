// A summary for a pull request or a CI job page: counts, then what fails, each with its first finding and how to repeat it.
#include <algorithm>

#include <fmt/format.h>

#include "reports/escape.h"
#include "reports/report.h"
#include "reports/words.h"

namespace moecheck::reports {
namespace {

using record::CaseRecord;
using record::Finding;
using record::RunRecord;
using record::Verdict;

// A GitHub job summary may have 1 MiB; a reader's patience ends before.
constexpr std::size_t kMaxOpenCases = 50;
constexpr std::size_t kMaxTableRows = 200;

std::string counts_table(const RunRecord& run) {
  std::string text = "| verdict | cases |\n| :-- | --: |\n";
  for (const Verdict verdict : record::all_verdicts())
    if (run.count(verdict) > 0) text += fmt::format("| {} | {} |\n", record::verdict_name(verdict), run.count(verdict));
  return text + fmt::format("| **all** | **{}** |\n", run.cases.size());
}

std::string facts(const RunRecord& run) {
  std::string text = seconds_text(run.seconds);
  if (!run.subject.empty()) text += ", subject " + escape_markdown(run.subject);
  if (!run.moecheck_version.empty()) text += ", moecheck " + escape_markdown(run.moecheck_version);
  if (!run.started.empty()) text += ", started " + escape_markdown(run.started);
  return text;
}

std::string finding_items(const Finding& finding) {
  std::string text = fmt::format("- **{}**", escape_markdown(finding.check));
  if (!finding.stage.empty()) text += fmt::format(" {}", escape_markdown(finding.stage));
  if (!finding.message.empty()) text += fmt::format(": {}", escape_markdown(finding.message));
  text += "\n";
  if (const auto place = place_text(finding); !place.empty()) text += fmt::format("- at {}\n", place);
  if (const auto numbers = numbers_text(finding); !numbers.empty()) text += fmt::format("- {}\n", numbers);
  if (!finding.hypothesis.empty()) text += fmt::format("- likely: {}\n", escape_markdown(finding.hypothesis));
  return text;
}

std::string open_case(const CaseRecord& one) {
  std::string text = fmt::format("### {} {}\n\n", verdict_tag(one.verdict), escape_markdown(one.id));
  if (!one.findings.empty())
    text += finding_items(one.findings.front());
  else if (one.reason.empty() && !gist(one).empty())
    text += fmt::format("- {}\n", escape_markdown(gist(one)));
  if (one.findings.size() > 1) text += fmt::format("- {} more in the full report\n", one.findings.size() - 1);
  if (!one.first_diverging.empty()) text += fmt::format("- first diverging stage: {}\n", escape_markdown(one.first_diverging));
  if (!one.scenario.empty()) text += fmt::format("- scenario: {}\n", escape_markdown(one.scenario));
  if (!one.reason.empty()) text += "\n" + markdown_code_block(one.reason);
  if (!one.repro.empty()) text += "\n" + markdown_code_block(one.repro);
  return text + "\n";
}

std::string open_cases(const RunRecord& run) {
  std::string text;
  std::size_t num_open = 0;
  for (const CaseRecord* one : in_reading_order(run))
    if (needs_attention(one->verdict) && ++num_open <= kMaxOpenCases) text += open_case(*one);
  if (num_open > kMaxOpenCases) text += fmt::format("{} more such cases are in the full report.\n\n", num_open - kMaxOpenCases);
  return text;
}

// Expected failures and cases that were not run: a reader may want to know why, but not first.
std::string other_cases(const RunRecord& run) {
  std::string rows;
  std::size_t num_rows = 0;
  for (const CaseRecord* one : in_reading_order(run)) {
    if (needs_attention(one->verdict) || one->verdict == Verdict::kPass || ++num_rows > kMaxTableRows) continue;
    rows += fmt::format("| {} | {} | {} |\n", record::verdict_name(one->verdict), escape_markdown(one->id),
                        escape_markdown(one->reason));
  }
  if (num_rows == 0) return "";
  return fmt::format(
      "<details><summary>{} expected to fail or not run</summary>\n\n| verdict | case | reason |\n| :-- | :-- | :-- |\n{}{}\n"
      "</details>\n\n",
      num_rows, rows, num_rows > kMaxTableRows ? fmt::format("| | {} more | |\n", num_rows - kMaxTableRows) : "");
}

std::string render_markdown(const RunRecord& run) {
  std::string text = fmt::format("## moecheck: {}\n\n{}\n\n{}\n", headline(run), facts(run), counts_table(run));
  text += open_cases(run);
  const auto unobserved = unobserved_checks(run);
  for (const auto& [check, num_cases] : unobserved)
    text += fmt::format("- not observed: {} in {} {}\n", escape_markdown(check), num_cases, num_cases == 1 ? "case" : "cases");
  if (!unobserved.empty()) text += "\n";
  return text + other_cases(run);
}

constexpr Format kFormat{"markdown", "report.md", &render_markdown};
MOECHECK_REGISTER_FORMAT(kFormat);

}  // namespace
}  // namespace moecheck::reports
