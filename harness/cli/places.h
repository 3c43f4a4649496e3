// Where the program finds its parts.
#pragma once

#include <filesystem>

#include "harness/base/result.h"

namespace moecheck::cli {

std::filesystem::path own_folder();      // of the running executable
std::filesystem::path rank_program();    // moecheck-rank beside it
// MOECHECK_SCENARIOS, else ./scenarios, else the one of the tree that the executable was built in, else ../share/moecheck/scenarios.
// Errors: kUsage with the places that were looked at.
base::Result<std::filesystem::path> scenarios_dir();
std::filesystem::path latest_run();      // .moecheck/latest

}  // namespace moecheck::cli
