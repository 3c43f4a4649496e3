// The straight line: case -> launch -> observed trace -> reference -> expected trace -> checks -> verdict -> record.
#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "harness/cases/case.h"
#include "harness/driver/run_folder.h"
#include "harness/launch/launcher.h"
#include "harness/record/run_record.h"

namespace moecheck::driver {

enum class KeepTraces { kNone, kFailed, kAll };

struct IdentifiedCase {
  cases::Case one;
  std::string id;
};

struct RunOptions {
  std::vector<IdentifiedCase> cases;
  std::function<std::unique_ptr<launch::Launcher>()> make_launcher;   // called once a worker
  subject::Capabilities capabilities;
  std::filesystem::path scratch;                         // tmpfs
  std::filesystem::path run_dir;
  std::optional<std::filesystem::path> checkpoint;       // instead of a generated one
  std::chrono::milliseconds timeout{60'000};             // of one case
  int num_workers = 1;
  int num_repeats = 1;                                   // judged alike or flaky; a crash, timeout or error ends them
  bool stops_at_first_failure = false;
  bool stops_after_trace = false;                        // --until trace
  KeepTraces keep_traces = KeepTraces::kFailed;
  std::string repro_suffix;                              // appended to every repro line: " --subject ..."
  std::string command;
  // Progress; called from one thread at a time.
  std::function<void(const IdentifiedCase&, std::size_t index)> on_start;
  std::function<void(const record::CaseRecord&, std::size_t index)> on_end;
};

// Runs and judges, and at the end compares the cases of one problem with each other: only the record has those findings, not
// events.jsonl or on_end. The record holds the cases in the given order, those that an interrupt or -x kept from running left out.
// Errors: kIo if the run folder cannot be written.
base::Result<record::RunRecord> run_cases(const RunOptions& options);

// Judges the trace of a run that was completed, or broken off.
// Memory: all lives, and what the reference expects of all their batches, at once.
// Errors: kUsage (unknown check), kDamaged (trace).
base::Result<record::CaseRecord> judge_trace(const cases::Case& one, const std::filesystem::path& trace, const RunExtent& extent);

// The findings of layout_invariance.h go into the cases that they are about. xfail_reasons: by id of the case.
std::vector<record::CaseRecord> compare_layouts(std::vector<record::CaseRecord> cases, const std::map<std::string, std::string>& xfail_reasons);

// xpass and xfail: a case that the scenario expects to fail, with that reason. No effect if the reason is empty.
// Flaky and vacuous cases stay what they are: they do not fail as expected.
void apply_xfail(record::CaseRecord& record, const std::string& reason);

std::string version();

}  // namespace moecheck::driver
