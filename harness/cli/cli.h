// The command line.
#pragma once

namespace moecheck::cli {

// Returns the exit code. Exceptions do not pass: CLI11's become usage errors, others internal ones.
int run_cli(int argc, char** argv);

}  // namespace moecheck::cli
