// RUN: run.json, events.jsonl (appended as it happens, so that an interrupted run still reports) and kept traces.
#pragma once

#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include "harness/base/json.h"
#include "harness/check/registry.h"
#include "harness/record/run_record.h"

namespace moecheck::driver {

// How far a run came, and what broke it off: phases that raised, or collectives that do not fit.
struct RunExtent {
  std::size_t num_lives = 1;   // that were begun
  std::vector<check::PhaseFailure> failures = {};
  std::optional<check::CollectiveMismatch> mismatch = {};
};

// A trace, and what is needed to judge it again.
struct KeptTrace {
  std::filesystem::path trace;
  std::string id;
  RunExtent extent;
  std::string xfail_reason;
};

class RunFolder {
 public:
  // What an earlier run left there (run.json, events.jsonl, traces) is removed: it must not be taken for this one's.
  // Errors: kIo: cannot be made or written; the remedy is --out.
  static base::Result<RunFolder> open(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  // One line, on disk before it returns. Errors: kIo (disk full).
  base::Status append_event(const base::Json& event);
  // Copies a trace to RUN/traces/<index>. Errors: kIo; nothing is kept then.
  base::Status keep_trace(std::size_t index, const KeptTrace& one);

 private:
  explicit RunFolder(std::filesystem::path path) : path_(std::move(path)) {}
  std::filesystem::path path_;
  std::ofstream events_;
};

// What keep_trace() left, in order of the index. Errors: kIo, kDamaged.
base::Result<std::vector<KeptTrace>> kept_traces(const std::filesystem::path& run);

// RUN/run.json; without it the cases that events.jsonl tells of, as an interrupted run. Errors: kIo, kDamaged.
base::Result<record::RunRecord> read_run(const std::filesystem::path& run);

}  // namespace moecheck::driver
