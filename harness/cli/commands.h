// The commands. Each adds itself to the command line and, when chosen, stores what to do; the result is the exit code.
#pragma once

#include <functional>
#include <string>

#include <CLI/CLI.hpp>

namespace moecheck::cli {

using Action = std::function<int()>;

void add_run(CLI::App& app, Action& action, const std::string& command_line);
void add_zoo(CLI::App& app, Action& action, const std::string& command_line);
void add_bisect(CLI::App& app, Action& action, const std::string& command_line);
void add_list(CLI::App& app, Action& action);       // list, show
void add_explain(CLI::App& app, Action& action);
void add_records(CLI::App& app, Action& action);    // check, report
void add_checkpoints(CLI::App& app, Action& action);   // diff, inspect
void add_doctor(CLI::App& app, Action& action);
void add_plugin(CLI::App& app, Action& action);     // plugin check, plugin new
void add_schema(CLI::App& app, Action& action);     // schema, version

// Prints "moecheck: <error>" to stderr and returns the exit code that fits.
int report_error(const std::string& text, int exit_code);

}  // namespace moecheck::cli
