// The parts of the HTML report. Each returns finished HTML: every string of the record in it is escaped, and stands only
// in element content, never in an attribute.
#pragma once

#include <string>
#include <string_view>

#include "harness/record/run_record.h"

namespace moecheck::reports {

std::string_view stylesheet();  // assets/report.css

std::string_view verdict_tone(record::Verdict verdict);  // a class of the style sheet: bad, warn, good or plain
std::string verdict_badge(record::Verdict verdict);

// One case in full, folded under its id.
// number: position in the run, from 1; also its anchor.
std::string case_html(const record::CaseRecord& one, std::size_t number, bool is_open);

// Stage x rank: used = error / bound, on a log scale with the number; the first diverging cell is outlined and named.
// Empty if nothing was observed.
std::string waterfall_html(const record::CaseRecord& one);
// Expert x rank: rows computed, who holds what, and whose weights stand in a wrong place. Empty if nothing was observed.
std::string expert_map_html(const record::CaseRecord& one);

}  // namespace moecheck::reports
