// Whether a fault was caught where it is.
#pragma once

#include <string>
#include <vector>

#include "harness/record/run_record.h"
#include "harness/subject/protocol.h"

namespace moecheck::driver {

// The expectations of `fault` that no finding of the record meets, as text; empty: caught by every named check at its place.
std::vector<std::string> missed_catches(const subject::FaultInfo& fault, const record::CaseRecord& record);

// "stage_diff at experts/gate_up_RG, rank 1, expert 6"
std::string catch_text(const subject::ExpectedCatch& expected);

}  // namespace moecheck::driver
