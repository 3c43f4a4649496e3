#include "harness/cli/cli.h"

#include <cstdio>

#include <fmt/format.h>

#include "harness/cli/commands.h"
#include "harness/record/verdict.h"

namespace moecheck::cli {
namespace {

std::string quoted_command_line(int argc, char** argv) {
  std::string line = "moecheck";
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    const bool is_plain = !argument.empty() && argument.find_first_of(" '\"\\$()*?&|;<>") == std::string::npos;
    line += is_plain ? " " + argument : fmt::format(" '{}'", argument);
  }
  return line;
}

}  // namespace

int report_error(const std::string& text, int exit_code) {
  fmt::print(stderr, "moecheck: {}\n", text);
  return exit_code;
}

int run_cli(int argc, char** argv) {
  CLI::App app("Finds correctness bugs in parallel Mixture-of-Experts layers.", "moecheck");
  app.require_subcommand(1);
  Action action;
  const std::string command_line = quoted_command_line(argc, argv);
  add_run(app, action, command_line);
  add_list(app, action);
  add_explain(app, action);
  add_records(app, action);
  add_zoo(app, action, command_line);
  add_bisect(app, action, command_line);
  add_doctor(app, action);
  add_schema(app, action);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() == 0) return app.exit(e);  // --help
    return report_error(fmt::format("{}; `moecheck --help` and `moecheck COMMAND --help` list what there is", e.what()),
                        record::kExitUsage);
  }
  return action();
}

}  // namespace moecheck::cli
