// moecheck run, moecheck bisect step
#include <memory>

#include "harness/bisect/step.h"
#include "harness/cli/commands.h"
#include "harness/cli/run_session.h"

namespace moecheck::cli {

void add_run(CLI::App& app, Action& action, const std::string& command_line) {
  CLI::App* run = app.add_subcommand("run", "run cases and judge them");
  auto arguments = std::make_shared<RunArguments>();
  add_run_options(*run, *arguments);
  run->callback([&action, arguments, command_line] {
    arguments->command_line = command_line;
    action = [arguments] { return static_cast<int>(run_command(*arguments)); };
  });
}

void add_bisect(CLI::App& app, Action& action, const std::string& command_line) {
  CLI::App* bisect = app.add_subcommand("bisect", "find the change that broke something");
  bisect->require_subcommand(1);
  CLI::App* step = bisect->add_subcommand(
      "step", "as run, with exit codes for `git bisect run`: 0 good, 1 bad, 125 could not test, 129 usage or internal error");
  auto arguments = std::make_shared<RunArguments>();
  add_run_options(*step, *arguments);
  step->callback([&action, arguments, command_line] {
    arguments->command_line = command_line;
    action = [arguments] { return bisect::step_exit_code(run_command(*arguments)); };
  });
}

}  // namespace moecheck::cli
