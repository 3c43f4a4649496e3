#include <algorithm>
#include <cctype>
#include <cmath>
#include <map>
#include <set>

#include <fmt/format.h>

#include "reports/escape.h"
#include "reports/html_parts.h"
#include "reports/words.h"

namespace moecheck::reports {
namespace {

using record::CaseRecord;
using record::StageCell;

// The bar's scale: empty at a thousandth of the bound, half at the bound, full at a thousand times the bound.
constexpr double kDecadesEachSide = 3;
constexpr std::size_t kMaxWideRanks = 6;  // more columns than these get narrow bars

int bar_percent(double used) {
  if (!std::isfinite(used)) return 100;
  if (used <= 0) return 0;
  const double position = (std::log10(used) + kDecadesEachSide) / (2 * kDecadesEachSide);
  // A bar that is there at all must be visible.
  return static_cast<int>(std::lround(100 * std::clamp(position, 0.02, 1.0)));
}

struct Grid {
  std::vector<std::string> stages;  // in the order of the record, which is stage order
  std::set<std::int64_t> ranks;
  std::map<std::pair<std::string, std::int64_t>, const StageCell*> cells;
};

Grid grid_of(const CaseRecord& one) {
  Grid grid;
  for (const StageCell& cell : one.stages) {
    if (std::ranges::find(grid.stages, cell.stage) == grid.stages.end()) grid.stages.push_back(cell.stage);
    grid.ranks.insert(cell.rank);
    grid.cells[{cell.stage, cell.rank}] = &cell;
  }
  return grid;
}

// "experts/gate_up_RG, rank 1, expert 5" names the cell of that stage and rank.
bool is_named(const StageCell& cell, std::string_view place) {
  const std::string name = fmt::format("{}, rank {}", cell.stage, cell.rank);
  if (!place.starts_with(name)) return false;
  place.remove_prefix(name.size());
  return place.empty() || std::isdigit(static_cast<unsigned char>(place[0])) == 0;
}

// The cell the record names; if it names none, the first one beyond its bound in stage order.
const StageCell* first_diverging_cell(const CaseRecord& one, const Grid& grid) {
  for (const StageCell& cell : one.stages)
    if (is_named(cell, one.first_diverging)) return &cell;
  for (const std::string& stage : grid.stages)
    for (const std::int64_t rank : grid.ranks) {
      const auto found = grid.cells.find({stage, rank});
      if (found != grid.cells.end() && is_over_bound(found->second->used)) return found->second;
    }
  return nullptr;
}

std::string cell_html(const StageCell* cell, bool is_first) {
  if (cell == nullptr) return "<td class=\"none\">not observed</td>";
  const bool is_over = is_over_bound(cell->used);
  // Comparing nothing proves nothing: such a cell must not look like a good one.
  if (cell->compared == 0 && !is_over) return "<td class=\"none\">nothing compared</td>";
  // No bound, and nobody was judged by it: a figure for the reader.
  if (cell->bound == 0 && cell->used == 0 && cell->measured > 0)
    return fmt::format("<td class=\"none\">{} (information)</td>", magnitude_text(cell->measured));
  return fmt::format("<td class=\"bar{}{}\" style=\"--w:{}%\">{}{}{}</td>", is_over ? " over" : "", is_first ? " first" : "",
                     bar_percent(cell->used), is_first ? "<b class=\"flag\">first</b> " : "", is_over ? "&#10007; " : "",
                     used_text(cell->used));
}

}  // namespace

std::string waterfall_html(const CaseRecord& one) {
  if (one.stages.empty()) return "";
  const Grid grid = grid_of(one);
  const StageCell* first = first_diverging_cell(one, grid);
  std::string html = fmt::format(
      "<figure><figcaption><b>Stage by rank</b> worst error as a multiple of its bound; log scale, the tick is the bound "
      "(1x), &#10007; is beyond it</figcaption>\n<div class=\"scroll\"><table class=\"grid{}\"><thead><tr><th>stage</th>",
      grid.ranks.size() > kMaxWideRanks ? " dense" : "");
  for (const std::int64_t rank : grid.ranks) html += fmt::format("<th>rank {}</th>", rank);
  html += "</tr></thead><tbody>\n";
  for (const std::string& stage : grid.stages) {
    html += fmt::format("<tr><th>{}</th>", escape_xml_line(stage));
    for (const std::int64_t rank : grid.ranks) {
      const auto found = grid.cells.find({stage, rank});
      const StageCell* cell = found == grid.cells.end() ? nullptr : found->second;
      html += cell_html(cell, cell != nullptr && cell == first);
    }
    html += "</tr>\n";
  }
  return html + "</tbody></table></div></figure>\n";
}

}  // namespace moecheck::reports
