// What `run`, `zoo run` and `bisect step` share: options of a run, and running cases with progress and reports.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "harness/cli/selection.h"
#include "harness/launch/scratch_dir.h"

namespace moecheck::cli {

struct RunArguments {
  SelectionOptions selection;
  std::string subject;              // a command; empty: moecheck-rank
  std::string launch;               // a launcher's words before the subject; empty: started by this program
  std::string listen;
  std::string fault;
  std::string out;
  std::vector<std::string> reports = {"html", "json", "junit", "markdown"};
  std::string until = "record";
  std::string keep_traces = "failed";
  std::string checkpoint;
  std::string seed;
  double timeout_s = 60;
  double start_timeout_s = 60;
  int num_workers = 1;
  int num_repeats = 1;
  bool stops_at_first_failure = false;
  bool is_fresh_ranks = false;
  bool is_warm_ranks = false;
  bool is_json = false;
  bool is_quiet = false;              // zoo run: failing cases are told by its matrix
  std::string command_line;
};

void add_run_options(CLI::App& app, RunArguments& arguments);

// A subject that was asked what it can do, and a scratch folder.
struct Prepared {
  launch::ScratchDir scratch;
  std::vector<std::string> command;
  subject::Capabilities capabilities;

  // Of a subject that forks its ranks in no time each case has new ones, unless they are asked to stay.
  bool has_fresh_ranks(const RunArguments& arguments) const { return arguments.is_fresh_ranks || (capabilities.has_fork_server && !arguments.is_warm_ranks); }
};
base::Result<Prepared> prepare(const std::string& subject, double start_timeout_s = RunArguments{}.start_timeout_s);

// Of what --timeout and --start-timeout take.
std::chrono::milliseconds milliseconds_of(double seconds);

// Of what --subject takes, words for a shell; empty: moecheck-rank beside this program.
std::vector<std::string> subject_command(const std::string& subject);

// Runs, prints progress to stderr and the result to stdout, writes RUN and its reports.
// Errors: as driver::run_cases and reports.
base::Result<record::RunRecord> run_with_progress(const RunArguments& arguments, std::vector<driver::IdentifiedCase> cases, const Prepared& prepared);

// The whole of `moecheck run`.
record::ExitCode run_command(RunArguments arguments);

record::ExitCode exit_code_of(const base::Error& error);

}  // namespace moecheck::cli
