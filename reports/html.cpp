// One self-contained page: no script, no font, no image, nothing fetched. Failing cases first, passing ones folded.
#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "reports/escape.h"
#include "reports/html_parts.h"
#include "reports/report.h"
#include "reports/words.h"

namespace moecheck::reports {
namespace {

using record::CaseRecord;
using record::RunRecord;
using record::StageCell;
using record::Verdict;

// Beyond these, a page of hundreds of cases is slow to open and says no more.
constexpr std::size_t kMaxOpenCases = 8;
constexpr std::size_t kMaxFullCases = 200;     // cases that need attention; the rest is a row in the list at the top
constexpr std::size_t kMaxFullPassing = 40;    // passing cases with their grids; the rest is a row in a table

struct ShownCase {
  const CaseRecord* record = nullptr;
  std::size_t number = 0;  // position in the run, from 1
};

using Cases = std::vector<ShownCase>;

template <typename Predicate>
Cases cases_where(const RunRecord& run, Predicate predicate) {
  Cases cases;
  for (const CaseRecord* one : in_reading_order(run))
    if (predicate(one->verdict)) cases.push_back({one, static_cast<std::size_t>(one - run.cases.data()) + 1});
  return cases;
}

std::string counts_html(const RunRecord& run) {
  std::string strip = "<div class=\"strip\" aria-hidden=\"true\">";
  std::string list = "<ul class=\"counts\">";
  for (const Verdict verdict : record::all_verdicts()) {
    const auto count = run.count(verdict);
    if (count == 0) continue;
    strip += fmt::format("<i class=\"{}\" style=\"flex:{}\"></i>", verdict_tone(verdict), count);
    list += fmt::format("<li class=\"{}\"><b>{}</b> {}</li>", verdict_tone(verdict), count, record::verdict_name(verdict));
  }
  return strip + "</div>\n" + list + "</ul>\n";
}

std::string fact(std::string_view name, std::string_view value) {
  return value.empty() ? "" : fmt::format("<dt>{}</dt><dd>{}</dd>", name, escape_xml_line(value));
}

std::string header_html(const RunRecord& run) {
  std::string html = fmt::format("<header>\n<p class=\"brand\">moecheck</p>\n<h1>{}</h1>\n", escape_xml(headline(run)));
  html += counts_html(run) + "<dl class=\"facts\">";
  html += fact("subject", run.subject) + fact("command", run.command) + fact("started", run.started);
  html += fact("took", seconds_text(run.seconds)) + fact("exit code", std::to_string(run.exit_code()));
  html += fact("moecheck", run.moecheck_version);
  for (const auto& [check, num_cases] : unobserved_checks(run))
    html += fmt::format("<dt>not observed</dt><dd>{} in {} {}</dd>", escape_xml_line(check), num_cases,
                        num_cases == 1 ? "case" : "cases");
  return html + "</dl>\n</header>\n";
}

// The list at the top: enough to see that ten failures are one.
std::string index_html(const Cases& cases) {
  if (cases.empty()) return "";
  std::string html =
      "<section><h2>At a glance</h2>\n<div class=\"scroll\"><table class=\"index\"><thead><tr><th>verdict</th><th>case</th>"
      "<th>first diverging stage</th><th>first finding</th></tr></thead><tbody>\n";
  for (std::size_t i = 0; i < cases.size(); ++i) {
    const CaseRecord& one = *cases[i].record;
    const std::string id = escape_xml_line(one.id);
    const std::string name = i < kMaxFullCases ? fmt::format("<a href=\"#case-{}\">{}</a>", cases[i].number, id) : id;
    html += fmt::format("<tr><td>{}</td><td><code>{}</code></td><td>{}</td><td>{}</td></tr>\n", verdict_badge(one.verdict), name,
                        escape_xml_line(one.first_diverging), escape_xml_line(gist(one)));
  }
  return html + "</tbody></table></div></section>\n";
}

std::string full_section(std::string_view title, const Cases& cases, std::size_t num_open) {
  if (cases.empty()) return "";
  std::string html = fmt::format("<section><h2>{} <small>{}</small></h2>\n", title, cases.size());
  for (std::size_t i = 0; i < std::min(cases.size(), kMaxFullCases); ++i)
    html += case_html(*cases[i].record, cases[i].number, i < num_open);
  if (cases.size() > kMaxFullCases)
    html += fmt::format("<p class=\"soft\">{} more are in the list at the top and in the record.</p>\n",
                        cases.size() - kMaxFullCases);
  return html + "</section>\n";
}

std::string not_run_section(const Cases& cases) {
  if (cases.empty()) return "";
  std::string html = fmt::format(
      "<section><h2>Not run <small>{}</small></h2>\n<div class=\"scroll\"><table "
      "class=\"index\"><thead><tr><th>verdict</th><th>case</th>"
      "<th>reason</th></tr></thead><tbody>\n",
      cases.size());
  for (const ShownCase& one : cases)
    html += fmt::format("<tr><td>{}</td><td><code>{}</code></td><td>{}</td></tr>\n", verdict_badge(one.record->verdict),
                        escape_xml_line(one.record->id), escape_xml_line(one.record->reason));
  return html + "</tbody></table></div></section>\n";
}

// How close a passing case came to its bounds: "0.42x at experts/act_RF, rank 1".
std::string closest_call(const CaseRecord& one) {
  const auto worst = std::ranges::max_element(one.stages, {}, &StageCell::used);
  if (worst == one.stages.end()) return "";
  return fmt::format("{} at {}, rank {}", used_text(worst->used), worst->stage, worst->rank);
}

std::string passing_row(const CaseRecord& one) {
  std::int64_t num_compared = 0;
  for (const record::CheckResult& check : one.checks) num_compared += check.compared;
  return fmt::format("<tr><td>{}</td><td><code>{}</code></td><td class=\"n\">{}</td><td>{}</td><td class=\"n\">{}</td></tr>\n",
                     verdict_badge(one.verdict), escape_xml_line(one.id), num_compared, escape_xml_line(closest_call(one)),
                     seconds_text(one.seconds));
}

std::string passing_section(const Cases& cases) {
  if (cases.empty()) return "";
  std::string html = fmt::format("<section><h2>Passing <small>{}</small></h2>\n<details><summary>{} passing {}</summary>\n",
                                 cases.size(), cases.size(), cases.size() == 1 ? "case" : "cases");
  if (cases.size() <= kMaxFullPassing) {
    for (const ShownCase& one : cases) html += case_html(*one.record, one.number, false);
    return html + "</details></section>\n";
  }
  html +=
      "<div class=\"scroll\"><table class=\"index\"><thead><tr><th>verdict</th><th>case</th><th class=\"n\">compared</th>"
      "<th>closest to its bound</th><th class=\"n\">time</th></tr></thead><tbody>\n";
  for (const ShownCase& one : cases) html += passing_row(*one.record);
  return html + "</tbody></table></div></details></section>\n";
}

std::string render_html(const RunRecord& run) {
  // The policy is a second lock: even an escaping mistake could not load or run anything.
  std::string html = fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<meta name=\"color-scheme\" content=\"light dark\">\n"
      "<title>moecheck: {}</title>\n<style>\n{}</style>\n</head>\n<body>\n",
      escape_xml(headline(run)), stylesheet());
  const auto attention = cases_where(run, &needs_attention);
  html += header_html(run) + "<main>\n" + index_html(attention);
  html += full_section("Failing", cases_where(run, [](Verdict v) { return record::is_failure(v); }), kMaxOpenCases);
  html += full_section("Could not be judged",
                       cases_where(run, [](Verdict v) { return needs_attention(v) && !record::is_failure(v); }), kMaxOpenCases);
  html += full_section("Expected to fail", cases_where(run, [](Verdict v) { return v == Verdict::kXfail; }), 0);
  html += not_run_section(cases_where(run, [](Verdict v) { return v == Verdict::kSkipped || v == Verdict::kUnsupported; }));
  html += passing_section(cases_where(run, [](Verdict v) { return v == Verdict::kPass; }));
  return html + "</main>\n</body>\n</html>\n";
}

constexpr Format kFormat{"html", "report.html", &render_html};
MOECHECK_REGISTER_FORMAT(kFormat);

}  // namespace
}  // namespace moecheck::reports
