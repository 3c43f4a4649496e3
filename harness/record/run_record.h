// The record of a run: RUN/run.json, schema 1; everything that a report shows. Fields are added, never renamed.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "harness/base/json.h"
#include "harness/base/result.h"
#include "harness/record/finding.h"
#include "harness/record/verdict.h"

namespace moecheck::record {

enum class CheckState { kPass, kFail, kVacuous, kUnobserved, kNotApplicable };
std::string_view check_state_name(CheckState state);

struct CheckResult {
  std::string name;
  CheckState state = CheckState::kNotApplicable;
  std::int64_t compared = 0;  // elements, rows or keys
  std::string note;           // why unobserved, not applicable or vacuous
};

// One cell of the stage x rank waterfall: the worst error of that stage on that rank.
struct StageCell {
  std::string stage;      // tap name; in stage order
  std::int64_t rank = 0;
  double measured = 0;    // worst absolute error
  double bound = 0;       // allowed at that element
  double used = 0;        // measured / bound; > 1 fails; NaN counts as failed
  std::int64_t compared = 0;
};

// One cell of the expert x rank heat map.
struct ExpertCell {
  std::int64_t rank = 0;
  std::int64_t expert = 0;    // global id
  bool is_local = false;      // the rank holds this expert (or a slice of it)
  std::int64_t tokens = 0;    // rows the rank computed for it
  std::int64_t wrong_rows = 0;     // weight rows that are not the generator's
  std::string holds;          // whose values stand there if wrong: "expert 3", "nobody's"; empty if right
};

struct CaseRecord {
  std::string id;
  std::string scenario;
  std::vector<std::pair<std::string, std::string>> config;  // knob, value; in table order
  Verdict verdict = Verdict::kUntested;
  std::string reason;       // for anything but pass and fail: the error, the signal, why skipped or unsupported
  double seconds = 0;       // wall time of running and judging
  double subject_seconds = 0;  // of that, waiting for the subject
  std::string repro;
  std::vector<CheckResult> checks;
  std::vector<Finding> findings;      // failures first
  std::string first_diverging;        // "experts/gate_up_RG, rank 1, expert 5"; empty if none
  std::vector<StageCell> stages;
  std::vector<ExpertCell> experts;
  std::map<std::string, std::string> digests;   // tap -> fingerprint of the global tensor, where nothing was rounded
};

struct RunRecord {
  std::string moecheck_version;
  std::string command;         // as typed
  std::string subject;         // name and version by its own word
  std::string started;         // ISO 8601, UTC
  double seconds = 0;
  bool interrupted = false;
  std::vector<CaseRecord> cases;

  std::int64_t count(Verdict verdict) const;
  // "150 pass, 2 fail": verdicts that occur, in the order of the enum, pass first.
  std::string summary_text() const;
  ExitCode exit_code() const;
};

base::Json to_json(const CaseRecord& one);
base::Json to_json(const RunRecord& run);
// Errors: kDamaged with the path of the field.
base::Result<RunRecord> run_record_from_json(const base::Json& json);
base::Result<RunRecord> read_run_record(const std::filesystem::path& run_dir);
base::Status write_run_record(const std::filesystem::path& run_dir, const RunRecord& run);  // atomically

}  // namespace moecheck::record
