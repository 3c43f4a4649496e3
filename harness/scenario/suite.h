// What `moecheck run PATH|SUITE` means: a scenario, a suite or a folder, as cases.
//
// A suite is a YAML file in scenarios/suites:
//     version: 1
//     suite: [cases/ep/tiny, cases/tp/*.yaml]   # below the scenarios folder; .yaml may be left out; * and ? do not match '/'
//     set: {dtype: bf16}                        # as --set, which wins over it
//     cover: 3                                  # for scenarios that say cover: how many axes at a time
//     tags: [smoke]                             # added to those of the scenarios
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "harness/base/result.h"
#include "harness/cases/case.h"

namespace moecheck::scenario {

// `path` is a file or folder as given, or below `scenarios_dir`, or the name of a suite ("smoke"); ".yaml" may be left out.
// A folder means all scenarios below it, in order of their paths, without scenarios/models and scenarios/suites.
// A case that several scenarios make is kept once, from the first of them: an id names one case.
// Errors: as load_scenario and expand; kUsage at an entry of a suite that matches no file, is no scenario or leaves the folder;
//         kUsage for a path that is not there, with the nearest known name.
base::Result<std::vector<cases::Case>> load_cases(const std::string& path, const cases::KnobValues& set_overrides,
                                                  const std::filesystem::path& scenarios_dir, const cases::FamilyLoader& load_family);

// Every scenario below `folder`, sorted by path; those of models and suites of `scenarios_dir` left out.
std::vector<std::filesystem::path> scenario_files(const std::filesystem::path& folder, const std::filesystem::path& scenarios_dir);

}  // namespace moecheck::scenario
