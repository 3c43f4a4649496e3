#include <algorithm>
#include <sstream>

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

constexpr std::size_t kMaxFindings = 3;
constexpr std::size_t kMaxRepeatedCases = 30;
// A traceback says most at its end.
constexpr std::size_t kMaxReasonLines = 12;

std::string_view colour_of(Verdict verdict) {
  if (record::is_failure(verdict)) return "\x1b[1;31m";
  if (needs_attention(verdict)) return "\x1b[1;33m";
  return verdict == Verdict::kPass ? "\x1b[32m" : "\x1b[36m";
}

std::string tag_text(Verdict verdict, bool is_color) {
  const std::string tag = verdict_tag(verdict);
  return is_color ? fmt::format("{}{}\x1b[0m", colour_of(verdict), tag) : tag;
}

std::string finding_text(const Finding& finding) {
  std::string message = printable_line(finding.message);
  if (message.ends_with('.')) message.pop_back();
  const std::string place = place_text(finding);
  std::string text = fmt::format("  {}{}{}", printable_line(finding.check), finding.stage.empty() ? "" : "  ",
                                 printable_line(finding.stage));
  if (!message.empty()) text += "  " + message;
  if (!place.empty()) text += fmt::format("{}{}", message.empty() ? "  " : "; ", place);
  text += "\n";

  const std::string numbers = numbers_text(finding);
  const std::string likely = finding.hypothesis.empty() ? "" : "likely: " + printable_line(finding.hypothesis);
  if (!numbers.empty() || !likely.empty())
    text += fmt::format("    {}{}{}\n", numbers, numbers.empty() || likely.empty() ? "" : "    ", likely);
  return text;
}

std::string findings_text(const CaseRecord& one) {
  std::string text;
  const std::size_t num_shown = std::min(kMaxFindings, one.findings.size());
  for (std::size_t i = 0; i < num_shown; ++i) text += finding_text(one.findings[i]);
  if (one.findings.size() > num_shown)
    text += fmt::format("  and {} more {}\n", one.findings.size() - num_shown,
                        one.findings.size() - num_shown == 1 ? "finding" : "findings");
  return text;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

std::string reason_text(const CaseRecord& one) {
  auto lines = lines_of(printable_text(one.reason));
  if (lines.size() > kMaxReasonLines) {
    const std::size_t num_left_out = lines.size() - kMaxReasonLines + 1;
    lines.erase(lines.begin() + 1, lines.begin() + 1 + static_cast<std::ptrdiff_t>(num_left_out));
    lines.insert(lines.begin() + 1, fmt::format("... {} lines left out ...", num_left_out));
  }
  std::string text;
  for (std::size_t i = 0; i < lines.size(); ++i) text += fmt::format("  {}{}\n", i == 0 ? "reason: " : "  ", lines[i]);
  return text;
}

std::string repeated_text(const CaseRecord& one, bool is_color) {
  const std::string line = printable_line(gist(one));
  std::string text = fmt::format("{}  {}\n", tag_text(one.verdict, is_color), printable_line(one.id));
  if (!line.empty()) text += fmt::format("  {}\n", line);
  if (!one.repro.empty()) text += fmt::format("  repro: {}\n", printable_line(one.repro));
  return text;
}

}  // namespace

std::string console_case(const CaseRecord& one, std::size_t index, std::size_t total, bool is_color) {
  if (one.verdict == Verdict::kPass) return "";
  std::string text = fmt::format("{}  {}   ({} of {}, {})\n", tag_text(one.verdict, is_color), printable_line(one.id), index,
                                 total, seconds_text(one.seconds));
  if (!needs_attention(one.verdict)) return text + reason_text(one);
  text += findings_text(one);
  if (one.findings.empty() && one.reason.empty() && !gist(one).empty()) text += fmt::format("  {}\n", printable_line(gist(one)));
  if (!one.first_diverging.empty()) text += fmt::format("  first diverging stage: {}\n", printable_line(one.first_diverging));
  text += reason_text(one);
  if (!one.repro.empty()) text += fmt::format("  repro: {}\n", printable_line(one.repro));
  return text;
}

std::string console_summary(const RunRecord& run, bool is_color) {
  std::string text;
  std::size_t num_open = 0;
  for (const CaseRecord* one : in_reading_order(run)) {
    if (!needs_attention(one->verdict)) continue;
    if (++num_open <= kMaxRepeatedCases) text += repeated_text(*one, is_color);
  }
  if (num_open > kMaxRepeatedCases) text += fmt::format("and {} more such cases\n", num_open - kMaxRepeatedCases);
  if (num_open > 0) text += "\n";
  for (const auto& [check, num_cases] : unobserved_checks(run))
    text += fmt::format("not observed: {} in {} {}\n", printable_line(check), num_cases, num_cases == 1 ? "case" : "cases");

  std::string last = fmt::format("moecheck: {} in {}", run.summary_text(), seconds_text(run.seconds));
  if (run.interrupted)
    last += ", interrupted";
  else if (run.cases.empty())
    last += "; no case was selected";
  return text + last + "\n";
}

}  // namespace moecheck::reports
