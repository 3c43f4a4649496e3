// Reports: pure functions RunRecord -> bytes. A format registers itself in its own file; nothing else names it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "harness/record/run_record.h"

namespace moecheck::reports {

struct Format {
  std::string_view name;       // "html", as in --report html
  std::string_view file_name;  // "report.html", in the run directory
  std::string (*render)(const record::RunRecord& run);
};

const std::vector<Format>& formats();  // sorted by name
const Format* find_format(std::string_view name);
bool register_format(const Format& format);

// Text of one finished case for the console; empty for a passing one (its progress line is enough).
// index: position in the run, counted from 1. is_color: ANSI colours.
std::string console_case(const record::CaseRecord& one, std::size_t index, std::size_t total, bool is_color);
// The failing cases again, then the summary line. Ends with the summary as the last line.
std::string console_summary(const record::RunRecord& run, bool is_color);

}  // namespace moecheck::reports

#define MOECHECK_REGISTER_FORMAT(format) \
  [[maybe_unused]] static const bool moecheck_registered_format = ::moecheck::reports::register_format(format)
