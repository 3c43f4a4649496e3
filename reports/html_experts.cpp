#include <algorithm>
#include <map>
#include <set>

#include <fmt/format.h>

#include "reports/escape.h"
#include "reports/html_parts.h"

namespace moecheck::reports {
namespace {

using record::CaseRecord;
using record::ExpertCell;

constexpr int kNumShades = 5;  // .s0 to .s5 in the style sheet

std::string wrong_text(const ExpertCell& cell) {
  const std::string holds = cell.holds.empty() ? "wrong weights" : "holds " + escape_xml_line(cell.holds);
  const std::string rows = cell.wrong_rows > 0 ? fmt::format(" <small>{} wrong {}</small>", cell.wrong_rows,
                                                             cell.wrong_rows == 1 ? "row" : "rows")
                                               : "";
  return fmt::format("&#10007; {}{}", holds, rows);
}

std::string cell_html(const ExpertCell* cell, std::int64_t max_tokens) {
  const bool is_wrong = cell != nullptr && (cell->wrong_rows > 0 || !cell->holds.empty());
  // A rank that computes rows for an expert it does not hold is worth more than a blank.
  if (cell == nullptr || (!cell->is_local && !is_wrong && cell->tokens == 0)) return "<td class=\"away\">&#183;</td>";
  if (is_wrong) return fmt::format("<td class=\"wrong\">{} <small>{}</small></td>", cell->tokens, wrong_text(*cell));
  if (!cell->is_local) return fmt::format("<td class=\"wrong\">{} <small>&#10007; not held here</small></td>", cell->tokens);
  const auto shade = max_tokens > 0 ? (cell->tokens * kNumShades + max_tokens - 1) / max_tokens : 0;
  return fmt::format("<td class=\"s{}\">{}</td>", shade, cell->tokens);
}

}  // namespace

std::string expert_map_html(const CaseRecord& one) {
  if (one.experts.empty()) return "";
  std::set<std::int64_t> ranks;
  std::set<std::int64_t> experts;
  std::map<std::pair<std::int64_t, std::int64_t>, const ExpertCell*> cells;
  std::int64_t max_tokens = 0;
  for (const ExpertCell& cell : one.experts) {
    ranks.insert(cell.rank);
    experts.insert(cell.expert);
    cells[{cell.expert, cell.rank}] = &cell;
    max_tokens = std::max(max_tokens, cell.tokens);
  }
  std::string html =
      "<figure><figcaption><b>Expert by rank</b> rows computed; hatched: the rank does not hold the expert; &#10007; the weights "
      "there are not the expert's own</figcaption>\n<div class=\"scroll\"><table class=\"grid heat\"><thead><tr><th>expert</th>";
  for (const std::int64_t rank : ranks) html += fmt::format("<th>rank {}</th>", rank);
  html += "</tr></thead><tbody>\n";
  for (const std::int64_t expert : experts) {
    html += fmt::format("<tr><th>{}</th>", expert);
    for (const std::int64_t rank : ranks) {
      const auto found = cells.find({expert, rank});
      html += cell_html(found == cells.end() ? nullptr : found->second, max_tokens);
    }
    html += "</tr>\n";
  }
  return html + "</tbody></table></div></figure>\n";
}

}  // namespace moecheck::reports
