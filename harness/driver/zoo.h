// Whether a fault was caught where it is, and a control was not.
#pragma once

#include <string>
#include <vector>

#include "harness/record/run_record.h"
#include "harness/subject/protocol.h"

namespace moecheck::driver {

// The expectations of `fault` that no finding of the record meets, as text; empty: caught by every named check at its place.
// Of a control: empty if the case passed, and every named check called what it found noise, or left it open.
std::vector<std::string> missed_catches(const subject::FaultInfo& fault, const record::CaseRecord& record);

// "stage_diff at experts/gate_up_RG, rank 1, expert 6"
std::string catch_text(const subject::ExpectedCatch& expected);

}  // namespace moecheck::driver
