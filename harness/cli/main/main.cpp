#include "harness/cli/cli.h"

int main(int argc, char** argv) { return moecheck::cli::run_cli(argc, argv); }
