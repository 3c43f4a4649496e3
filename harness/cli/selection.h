// Which cases a command line means.
#pragma once

#include <string>
#include <vector>

#include "harness/cases/case.h"
#include "harness/driver/pipeline.h"

namespace moecheck::cli {

struct SelectionOptions {
  std::vector<std::string> targets;     // paths, suites, or case ids
  std::vector<std::string> case_ids;    // --case
  std::vector<std::string> sets;        // knob=value
  std::string expression;               // -k
  std::vector<std::string> tags;
  std::string shard;                    // "i/n", i from 1
  bool is_last_failed = false;          // --lf
};

struct Selection {
  std::vector<driver::IdentifiedCase> cases;
  cases::FamilyLoader load_family;
};

// Errors: kUsage, kIo; where is the file:line:column or the option.
base::Result<Selection> select_cases(const SelectionOptions& options);

}  // namespace moecheck::cli
