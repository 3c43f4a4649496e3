// RUN: run.json, events.jsonl (appended as it happens, so that an interrupted run still reports) and kept traces.
#pragma once

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "harness/base/json.h"
#include "harness/check/registry.h"
#include "harness/record/run_record.h"

namespace moecheck::driver {

class RunFolder {
 public:
  // Errors: kIo: cannot be made or written; the remedy is --out.
  static base::Result<RunFolder> open(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  // One line, on disk before it returns. Errors: kIo (disk full).
  base::Status append_event(const base::Json& event);
  // Moves a case's trace to RUN/traces/<index>, with what is needed to judge it again. Errors: kIo.
  base::Status keep_trace(std::size_t index, const std::filesystem::path& trace, const std::string& id,
                          const std::vector<check::PhaseFailure>& failures);

 private:
  explicit RunFolder(std::filesystem::path path) : path_(std::move(path)) {}
  std::filesystem::path path_;
  std::ofstream events_;
};

// What keep_trace() left: the trace's folder, the case's id and its failed phases.
struct KeptTrace {
  std::filesystem::path trace;
  std::string id;
  std::vector<check::PhaseFailure> failures;
};
// In order of their index. Errors: kIo, kDamaged.
base::Result<std::vector<KeptTrace>> kept_traces(const std::filesystem::path& run);

}  // namespace moecheck::driver
