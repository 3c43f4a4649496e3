#include <algorithm>

#include <fmt/format.h>

#include "reports/escape.h"
#include "reports/html_parts.h"
#include "reports/words.h"

namespace moecheck::reports {
namespace {

using record::CaseRecord;
using record::CheckResult;
using record::CheckState;
using record::Finding;
using record::Verdict;

// One broken expert can make a finding for each of its rows; the record keeps them all.
constexpr std::size_t kMaxFindings = 40;
constexpr int kNumFindingColumns = 12;

std::string int_cell(const std::optional<std::int64_t>& value) {
  return value ? fmt::format("<td class=\"n\">{}</td>", *value) : "<td></td>";
}

std::string number_cell(const std::optional<double>& value, std::string (*text)(double)) {
  return value ? fmt::format("<td class=\"n\">{}</td>", text(*value)) : "<td></td>";
}

std::string finding_html(const Finding& f) {
  std::string html =
      fmt::format("<tbody class=\"{}\"><tr><td rowspan=\"2\"><b>{}</b><br><small>{}</small></td><td><code>{}</code>",
                  is_failure(f) ? "bad" : "info", escape_xml_line(f.check), record::class_name(f.cls), escape_xml_line(f.stage));
  if (!f.tensor.empty() && f.tensor != f.stage) html += fmt::format("<br><small>{}</small>", escape_xml_line(f.tensor));
  if (f.step) html += fmt::format("<br><small>step {}</small>", *f.step);
  if (!f.life.empty()) html += fmt::format("<br><small>{}</small>", escape_xml_line(f.life));
  html += "</td>" + int_cell(f.rank) + int_cell(f.expert) + int_cell(f.token) + int_cell(f.slot);
  html += number_cell(f.want, &value_text) + number_cell(f.got, &value_text);
  html += number_cell(f.measured, &magnitude_text) + number_cell(f.bound, &magnitude_text);
  html +=
      fmt::format("<td class=\"n{}\">{}</td>", f.used && is_over_bound(*f.used) ? " hot" : "", f.used ? used_text(*f.used) : "");
  html += fmt::format("<td class=\"n\">{}</td></tr>\n", f.compared);
  html += fmt::format("<tr><td class=\"say\" colspan=\"{}\">{}", kNumFindingColumns - 1, escape_xml_line(f.message));
  if (!f.hypothesis.empty()) html += fmt::format("<br><b>Likely:</b> {}", escape_xml_line(f.hypothesis));
  return html + "</td></tr></tbody>\n";
}

std::string findings_html(const CaseRecord& one) {
  if (one.findings.empty()) return "";
  std::string html =
      "<h4>Findings</h4>\n<div class=\"scroll\"><table class=\"findings\"><thead><tr><th>check</th><th>stage</th>";
  for (const char* name : {"rank", "expert", "token", "slot", "want", "got", "error", "bound", "used", "compared"})
    html += fmt::format("<th class=\"n\">{}</th>", name);
  html += "</tr></thead>\n";
  const std::size_t num_shown = std::min(kMaxFindings, one.findings.size());
  for (std::size_t i = 0; i < num_shown; ++i) html += finding_html(one.findings[i]);
  html += "</table></div>\n";
  if (one.findings.size() > num_shown)
    html += fmt::format("<p class=\"soft\">{} more are in the record.</p>\n", one.findings.size() - num_shown);
  return html;
}

std::string_view state_mark(CheckState state) {
  switch (state) {
    case CheckState::kPass: return "&#10003;";
    case CheckState::kFail: return "&#10007;";
    case CheckState::kVacuous: return "&#8709;";
    case CheckState::kUnobserved: return "?";
    case CheckState::kNotApplicable: return "&#8211;";
  }
  return "";
}

std::string state_text(CheckState state) {
  std::string text(record::check_state_name(state));
  std::ranges::replace(text, '_', ' ');
  return text;
}

std::string checks_html(const CaseRecord& one) {
  if (one.checks.empty()) return "";
  std::string html =
      "<div><h4>Checks</h4>\n<div class=\"scroll\"><table class=\"checks\"><thead><tr><th>check</th><th>state</th><th "
      "class=\"n\">compared</th>"
      "<th>note</th></tr></thead><tbody>\n";
  for (const CheckResult& check : one.checks) {
    const bool is_bad = check.state == CheckState::kFail || check.state == CheckState::kVacuous;
    html += fmt::format("<tr><td><code>{}</code></td><td class=\"{}\">{} {}</td><td class=\"n\">{}</td><td>{}</td></tr>\n",
                        escape_xml_line(check.name), is_bad ? "hot" : "", state_mark(check.state), state_text(check.state),
                        check.compared, escape_xml_line(check.note));
  }
  return html + "</tbody></table></div></div>\n";
}

std::string config_html(const CaseRecord& one) {
  std::string html = "<div><h4>Configuration</h4>\n<dl class=\"config\">";
  if (!one.scenario.empty()) html += fmt::format("<dt>scenario</dt><dd>{}</dd>", escape_xml_line(one.scenario));
  for (const auto& [knob, value] : one.config)
    html += fmt::format("<dt>{}</dt><dd>{}</dd>", escape_xml_line(knob), escape_xml_line(value));
  html += fmt::format("<dt>time</dt><dd>{}, {} of it in the subject</dd>", seconds_text(one.seconds),
                      seconds_text(one.subject_seconds));
  return html + "</dl></div>\n";
}

std::string story_html(const CaseRecord& one) {
  std::string html;
  if (!one.reason.empty()) html += fmt::format("<pre class=\"reason\">{}</pre>\n", escape_xml(one.reason));
  if (!one.first_diverging.empty())
    html += fmt::format("<p>First diverging stage: <b>{}</b></p>\n", escape_xml_line(one.first_diverging));
  return html;
}

}  // namespace

std::string_view verdict_tone(Verdict verdict) {
  if (record::is_failure(verdict)) return "bad";
  if (needs_attention(verdict)) return "warn";
  return verdict == Verdict::kPass ? "good" : "plain";
}

std::string verdict_badge(Verdict verdict) {
  return fmt::format("<span class=\"badge {}\">{}</span>", verdict_tone(verdict), verdict_tag(verdict));
}

std::string case_html(const CaseRecord& one, std::size_t number, bool is_open) {
  std::string html = fmt::format(
      "<details class=\"case{}\" id=\"case-{}\"{}><summary>{} <code>{}</code> <span class=\"soft\">{}</span></summary>\n",
      needs_attention(one.verdict) ? " open-end" : "", number, is_open ? " open" : "", verdict_badge(one.verdict),
      escape_xml_line(one.id), seconds_text(one.seconds));
  html += story_html(one) + findings_html(one);
  const std::string grids = waterfall_html(one) + expert_map_html(one);
  if (!grids.empty()) html += "<div class=\"side\">\n" + grids + "</div>\n";
  html += "<div class=\"side\">\n" + checks_html(one) + config_html(one) + "</div>\n";
  if (!one.repro.empty())
    html += fmt::format("<h4>Run it again</h4>\n<pre class=\"repro\"><code>{}</code></pre>\n", escape_xml_line(one.repro));
  return html + "</details>\n";
}

}  // namespace moecheck::reports
