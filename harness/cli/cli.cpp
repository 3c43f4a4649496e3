#include "harness/cli/cli.h"

#include <algorithm>
#include <cstdio>
#include <string_view>

#include <fmt/format.h>

#include "harness/bisect/step.h"
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

// A typo behind `bisect step` must not blame a commit, though it is found before the command is known.
int exit_code_for_caller(int argc, char** argv, record::ExitCode code) {
  char** const command = std::find_if(argv + 1, argv + argc, [](const char* argument) { return argument[0] != '-'; });
  const bool is_bisect = command != argv + argc && std::string_view(*command) == "bisect";
  return is_bisect ? bisect::step_exit_code(code) : code;
}

int parse_and_act(CLI::App& app, const Action& action, int argc, char** argv) {
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() == 0) return app.exit(e);  // --help
    return report_error(fmt::format("{}; `moecheck --help` and `moecheck COMMAND --help` list what there is", e.what()),
                        exit_code_for_caller(argc, argv, record::kExitUsage));
  }
  const int exit_code = action();
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0)
    return report_error("cannot write to stdout: the result is lost", exit_code_for_caller(argc, argv, record::kExitCouldNotTest));
  return exit_code;
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
  add_checkpoints(app, action);
  add_zoo(app, action, command_line);
  add_bisect(app, action, command_line);
  add_doctor(app, action);
  add_plugin(app, action);
  add_schema(app, action);
  try {
    return parse_and_act(app, action, argc, argv);
  } catch (const std::exception& e) {
    return report_error(fmt::format("internal error: {}", e.what()), exit_code_for_caller(argc, argv, record::kExitInternal));
  }
}

}  // namespace moecheck::cli
