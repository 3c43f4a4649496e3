#include "harness/driver/pipeline.h"

#include <algorithm>
#include <atomic>
#include <ctime>
#include <mutex>
#include <set>
#include <span>
#include <thread>

#include <fmt/chrono.h>
#include <fmt/format.h>

#include "harness/check/digests.h"
#include "harness/check/judge.h"
#include "harness/driver/checkpoint_cache.h"
#include "harness/driver/layout_invariance.h"
#include "harness/launch/interrupts.h"
#include "reference/evaluate.h"

namespace moecheck::driver {
namespace {

using Clock = std::chrono::steady_clock;
using launch::RunEnd;
using record::CaseRecord;
using record::Verdict;

RunExtent extent_of(const launch::CaseRun& run) {
  RunExtent extent{run.life + 1, {}, run.mismatch};
  for (const launch::RaisedPhase& raised : run.raised)
    extent.failures.push_back({raised.rank, raised.phase, raised.message, raised.traceback, raised.batch, raised.life});
  return extent;
}

std::optional<Verdict> verdict_without_judging(RunEnd end) {
  switch (end) {
    case RunEnd::kCompleted:
    case RunEnd::kRaised:
    case RunEnd::kDiverged: return std::nullopt;
    case RunEnd::kUnsupported: return Verdict::kUnsupported;
    case RunEnd::kCrashed: return Verdict::kCrash;
    case RunEnd::kTimedOut: return Verdict::kTimeout;
    case RunEnd::kBroken: return Verdict::kError;
    case RunEnd::kInterrupted: return Verdict::kUntested;
  }
  return Verdict::kUntested;
}

CaseRecord record_of(Verdict verdict, std::string reason) {
  CaseRecord record;
  record.verdict = verdict;
  record.reason = std::move(reason);
  return record;
}

// By checks, or left to `moecheck check`: then there is a trace, and verdicts can be compared between repeats.
bool is_judged(Verdict verdict) {
  return verdict == Verdict::kPass || verdict == Verdict::kFail || verdict == Verdict::kVacuous || verdict == Verdict::kInconclusive ||
         verdict == Verdict::kSkipped;
}

// A life as it lies on disk, and what it should have shown.
struct ReadLife {
  trace::Trace loaded;
  std::vector<trace::Trace> batches;
  std::vector<trace::Expected> expected;
  std::map<model::Dim, checkpoint::Checkpoint> saves;
};

base::Result<ReadLife> read_life(const cases::Life& life, const std::filesystem::path& folder) {
  ReadLife read;
  auto loaded = trace::read_phase(folder, "load", life.one.world_size());
  if (!loaded) return loaded.error();
  read.loaded = *std::move(loaded);
  auto batches = trace::read_trace(folder, {life.one.phases, life.one.world_size(), life.one.num_batches(), life.one.first_batch});
  if (!batches) return batches.error();
  read.batches = *std::move(batches);
  const std::span<const trace::Trace> shown(read.batches);
  read.expected.resize(shown.size());
  for (auto b = static_cast<std::size_t>(life.one.first_batch); b < shown.size(); ++b) read.expected[b] = reference::evaluate(life.one, shown.first(b + 1));
  for (const cases::PlannedSave& save : life.saves) {
    auto stored = checkpoint::survey(trace::saves_folder(folder) / cases::save_folder(save.after));
    if (stored) read.saves.emplace(save.after, *std::move(stored));
  }
  return read;
}

base::Result<std::vector<ReadLife>> read_lives(const std::vector<cases::Life>& planned, const std::filesystem::path& trace, std::size_t num_lives) {
  std::vector<ReadLife> lives;
  for (std::size_t i = 0; i < std::min(num_lives, planned.size()); ++i) {
    auto life = read_life(planned[i], trace::life_folder(trace, i));
    if (!life) return life.error();
    lives.push_back(*std::move(life));
  }
  return lives;
}

// One worker: its own ranks, cases taken from a shared counter.
class Worker {
 public:
  Worker(const RunOptions& options, RunFolder& folder, CheckpointCache& checkpoints, int number)
      : options_(options), folder_(folder), checkpoints_(checkpoints), launcher_(options.make_launcher()),
        scratch_(options.scratch / fmt::format("w{}", number)) {}

  CaseRecord run(const IdentifiedCase& identified, std::size_t index, base::Status& status) {
    const auto start = Clock::now();
    CaseRecord record = run_repeats(identified, index, status);
    apply_xfail(record, identified.one.xfail_reason);
    record.id = identified.id;
    record.scenario = identified.one.scenario;
    record.config = cases::config_of(identified.one);
    record.seconds = std::chrono::duration<double>(Clock::now() - start).count();
    record.repro = fmt::format("moecheck run --case \"{}\"{}", identified.id, options_.repro_suffix);
    return record;
  }

 private:
  CaseRecord run_repeats(const IdentifiedCase& identified, std::size_t index, base::Status& status) {
    CaseRecord first = run_once(identified, index, status);
    for (int repeat = 2; repeat <= options_.num_repeats && is_judged(first.verdict) && launch::num_interrupts() == 0; ++repeat) {
      CaseRecord again = run_once(identified, index, status);
      if (again.verdict == Verdict::kUntested) break;  // ended by hand; the repeats before it count
      first.subject_seconds += again.subject_seconds;
      if (again.verdict == first.verdict) continue;
      const std::string before = fmt::format("{} x {}", repeat - 1, record::verdict_name(first.verdict));
      first.reason = fmt::format("{} in repeat {} after {}{}{}", record::verdict_name(again.verdict), repeat, before, again.reason.empty() ? "" : ": ", again.reason);
      first.verdict = is_judged(again.verdict) ? Verdict::kFlaky : again.verdict;
      first.findings.insert(first.findings.end(), again.findings.begin(), again.findings.end());
      break;
    }
    return first;
  }

  CaseRecord run_once(const IdentifiedCase& identified, std::size_t index, base::Status& status) {
    const cases::Case& one = identified.one;
    for (const cases::Life& life : cases::lives_of(one))
      if (const std::string refusal = options_.capabilities.refusal(life.asked); !refusal.empty()) return record_of(Verdict::kUnsupported, refusal);
    launch::CaseFolders folders{"", scratch_ / "trace"};
    std::error_code code;
    std::filesystem::remove_all(folders.trace, code);
    std::shared_ptr<const CheckpointFolder> checkpoint;
    if (options_.checkpoint) {
      folders.checkpoint = *options_.checkpoint;
    } else {
      auto made = checkpoints_.get(one);
      if (!made) return record_of(Verdict::kError, made.error().text());
      checkpoint = *made;
      folders.checkpoint = checkpoint->path();
    }
    launch::CaseRun run = launcher_->run(one, folders, options_.timeout);
    if (options_.checkpoint && run.end == RunEnd::kBroken)
      run.reason += "; --checkpoint must name a folder with a whole model.safetensors of this model; without it one is generated";
    CaseRecord record = judge_run(one, run, folders.trace);
    record.subject_seconds = run.seconds;
    // A trace of ranks that crashed or hung ends anywhere: judged again it could pass for a whole one.
    const bool is_whole = !verdict_without_judging(run.end);
    const bool is_wanted = options_.keep_traces == KeepTraces::kAll || (options_.keep_traces == KeepTraces::kFailed && record.verdict == Verdict::kFail);
    if (is_whole && is_wanted)
      if (auto kept = folder_.keep_trace(index, {folders.trace, identified.id, extent_of(run), one.xfail_reason}); !kept) status = kept;
    return record;
  }

  CaseRecord judge_run(const cases::Case& one, const launch::CaseRun& run, const std::filesystem::path& trace) const {
    if (const auto verdict = verdict_without_judging(run.end)) return record_of(*verdict, run.reason);
    if (options_.stops_after_trace) return record_of(Verdict::kSkipped, "not judged: --until trace; `moecheck check` judges it");
    auto judged = judge_trace(one, trace, extent_of(run));
    if (!judged) return record_of(Verdict::kError, judged.error().text());
    if (!run.reason.empty()) judged->reason += (judged->reason.empty() ? "" : ": ") + run.reason;
    return *std::move(judged);
  }

  const RunOptions& options_;
  RunFolder& folder_;
  CheckpointCache& checkpoints_;
  std::unique_ptr<launch::Launcher> launcher_;
  std::filesystem::path scratch_;
};

// Shared by the workers; every access under the mutex.
struct Progress {
  std::mutex mutex;
  std::size_t next = 0;
  bool is_stopped = false;
  base::Status status = base::Ok{};
  std::vector<std::optional<CaseRecord>> records;
};

std::optional<std::size_t> take_next(Progress& progress, const RunOptions& options) {
  const std::lock_guard lock(progress.mutex);
  if (progress.is_stopped || launch::num_interrupts() > 0 || progress.next >= options.cases.size()) return std::nullopt;
  const std::size_t index = progress.next++;
  if (options.on_start) options.on_start(options.cases[index], index);
  return index;
}

void finish(Progress& progress, const RunOptions& options, RunFolder& folder, std::size_t index, CaseRecord record, base::Status status) {
  const std::lock_guard lock(progress.mutex);
  if (record.verdict == Verdict::kUntested && launch::num_interrupts() >= 2) return;  // ended by hand: no verdict
  if (status) status = folder.append_event({{"event", "case"}, {"index", index}, {"case", record::to_json(record)}});
  if (!status) {
    progress.status = status;
    progress.is_stopped = true;
  }
  if (options.stops_at_first_failure && record::is_failure(record.verdict)) progress.is_stopped = true;
  if (options.on_end) options.on_end(record, index);
  progress.records[index] = std::move(record);
}

void work(int number, Progress& progress, const RunOptions& options, RunFolder& folder, CheckpointCache& checkpoints) {
  Worker worker(options, folder, checkpoints, number);
  while (const auto index = take_next(progress, options)) {
    base::Status status = base::Ok{};
    CaseRecord record = worker.run(options.cases[*index], *index, status);
    finish(progress, options, folder, *index, std::move(record), status);
  }
}

}  // namespace

std::string version() { return MOECHECK_VERSION; }

void apply_xfail(CaseRecord& record, const std::string& reason) {
  if (reason.empty()) return;
  const bool has_failed = record.verdict == Verdict::kFail || record.verdict == Verdict::kCrash || record.verdict == Verdict::kTimeout;
  if (record.verdict == Verdict::kPass) {
    record.verdict = Verdict::kXpass;
    record.reason = "expected to fail: " + reason;
  } else if (has_failed) {
    record.reason = reason + (record.reason.empty() ? "" : fmt::format(" ({}: {})", record::verdict_name(record.verdict), record.reason));
    record.verdict = Verdict::kXfail;
  }
}

base::Result<CaseRecord> judge_trace(const cases::Case& one, const std::filesystem::path& trace, const RunExtent& extent) {
  const std::vector<cases::Life> planned = cases::lives_of(one);
  auto lives = read_lives(planned, trace, extent.num_lives);
  if (!lives) return lives.error();
  std::vector<check::LifeInput> inputs;
  for (std::size_t i = 0; i < lives->size(); ++i) {
    ReadLife& life = (*lives)[i];
    inputs.push_back({planned[i], life.loaded, life.batches, life.expected, std::move(life.saves)});
  }
  auto judged = check::judge({one, inputs, extent.failures, extent.mismatch});
  if (!judged) return judged;
  const bool broke_off = !extent.failures.empty() || extent.mismatch.has_value();
  if (broke_off && !record::is_failure(judged->verdict)) {
    judged->verdict = Verdict::kFail;
    judged->reason = "the run broke off, and none of its checks says so";
  }
  if (judged->verdict == Verdict::kPass) judged->digests = check::exact_digests(one, lives->front().expected.front(), lives->front().batches.front());
  return judged;
}

std::vector<CaseRecord> compare_layouts(std::vector<CaseRecord> cases, const std::map<std::string, std::string>& xfail_reasons) {
  std::set<std::size_t> failed;
  for (LayoutFinding& one : layout_findings(cases)) {
    cases[one.index] = with_layout_finding(std::move(cases[one.index]), std::move(one.finding));
    failed.insert(one.index);
  }
  for (const std::size_t index : failed)
    if (const auto reason = xfail_reasons.find(cases[index].id); reason != xfail_reasons.end()) apply_xfail(cases[index], reason->second);
  return cases;
}

base::Result<record::RunRecord> run_cases(const RunOptions& options) {
  const auto start = Clock::now();
  auto folder = RunFolder::open(options.run_dir);
  if (!folder) return folder.error();
  record::RunRecord run;
  run.moecheck_version = version();
  run.command = options.command;
  run.subject = options.capabilities.name + " " + options.capabilities.version;
  run.started = fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr)));
  const base::Json begin = {{"event", "start"}, {"cases", options.cases.size()}, {"command", run.command}, {"subject", run.subject},
                            {"started", run.started}, {"moecheck_version", run.moecheck_version}};
  if (auto begun = folder->append_event(begin); !begun) return begun.error();
  CheckpointCache checkpoints(options.scratch / "checkpoints");
  Progress progress;
  progress.records.resize(options.cases.size());
  std::vector<std::jthread> helpers;
  for (int number = 1; number < options.num_workers; ++number)
    helpers.emplace_back([&, number] { work(number, progress, options, *folder, checkpoints); });
  work(0, progress, options, *folder, checkpoints);
  helpers.clear();  // joins
  for (std::optional<CaseRecord>& record : progress.records)
    if (record) run.cases.push_back(*std::move(record));
  std::map<std::string, std::string> xfail_reasons;
  for (const IdentifiedCase& one : options.cases) xfail_reasons.emplace(one.id, one.one.xfail_reason);
  run.cases = compare_layouts(std::move(run.cases), xfail_reasons);
  run.interrupted = launch::num_interrupts() > 0;
  run.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  if (!progress.status) return progress.status.error();
  if (auto written = record::write_run_record(options.run_dir, run); !written) return written.error();
  return run;
}

}  // namespace moecheck::driver
