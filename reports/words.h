// The words and numbers that all reports share, so that a finding reads the same on the console, in CI and in HTML.
// Nothing here is escaped; see escape.h.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "harness/record/run_record.h"

namespace moecheck::reports {

std::string verdict_tag(record::Verdict verdict);  // "FAIL"

// At most `num_digits` significant digits, no trailing zeros: "0.4375", "3.9e-3", "nan", "-inf".
std::string number_text(double value, int num_digits);
std::string value_text(double value);      // want and got: enough digits to tell two bf16 neighbours apart
std::string magnitude_text(double value);  // errors and bounds: their size is what matters
// "112x"; never "1x" for a value on either side of 1: ">1x" and "<1x" instead.
std::string used_text(double used);
std::string seconds_text(double seconds);  // "0.4 s", "3 min 05 s"

bool is_over_bound(double used);  // NaN is

std::string place_text(const record::Finding& finding);    // "token 4, slot 1, expert 5, rank 1, step 2"; may be empty
std::string numbers_text(const record::Finding& finding);  // "want 0.4375  got 0  bound 3.9e-3  used 112x"; may be empty
std::string gist(const record::CaseRecord& one);           // one line: the reason, or the first finding; may be empty

// Neither good nor left out on purpose: a reader has to look at it.
bool needs_attention(record::Verdict verdict);
// Failing first, then could not be judged, expected failures, not run, passing last; in the order of the run within each.
std::vector<const record::CaseRecord*> in_reading_order(const record::RunRecord& run);

std::string headline(const record::RunRecord& run);  // "2 of 9 cases fail"
// Name of a check and in how many cases it had nothing to look at, in order of appearance.
std::vector<std::pair<std::string, std::int64_t>> unobserved_checks(const record::RunRecord& run);

}  // namespace moecheck::reports
