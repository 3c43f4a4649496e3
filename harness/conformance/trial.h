// A subject on trial: runs cases through the driver as a user would, or talks to its ranks past the driver's own refusals.
#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "harness/driver/pipeline.h"
#include "harness/launch/rank_pool.h"

namespace moecheck::conformance {

struct TrialOptions {
  std::vector<std::string> command;
  std::filesystem::path scratch;               // tmpfs; each item leaves it as it was
  cases::FamilyLoader load_family;
  std::chrono::milliseconds limit{60'000};     // for a case, an answer, a start
  std::string repro_suffix;                    // " --subject ..." of a line that repeats a case
};

// How cases are run, where it is not as usual.
struct RunChanges {
  std::vector<std::string> command = {};       // instead of the subject's
  launch::SentObserver on_sent = {};
  std::chrono::milliseconds limit{0};          // 0: as usual
};

using Requests = std::vector<base::Json>;

class Trial {
 public:
  explicit Trial(TrialOptions options) : options_(std::move(options)) {}

  const TrialOptions& options() const { return options_; }
  // Requires: set_capabilities() before.
  const subject::Capabilities& capabilities() const { return *capabilities_; }
  bool has_capabilities() const { return capabilities_.has_value(); }
  void set_capabilities(subject::Capabilities capabilities) { capabilities_ = std::move(capabilities); }

  // Errors: kUsage for a case that makes no sense.
  base::Result<driver::IdentifiedCase> case_of(const std::string& id) const;
  // One after the other, on the same ranks where the driver would keep them. Errors: as driver::run_cases; kInterrupted.
  base::Result<std::vector<record::CaseRecord>> run(const std::vector<driver::IdentifiedCase>& cases, const RunChanges& changes = {});
  // A small case that passes, over two ranks if there is one; looked for once. None if no case passes.
  const std::optional<driver::IdentifiedCase>& sound_case();

  // Ranks of their own, each started as a process. Errors: as launch::RankPool::start.
  base::Result<std::unique_ptr<launch::RankPool>> start_ranks(model::Dim world_size);
  // An empty folder.
  std::filesystem::path new_folder(const std::string& name);
  // The generator's weights of a case. Errors: kIo.
  base::Result<std::filesystem::path> new_checkpoint(const cases::Case& one);

 private:
  TrialOptions options_;
  std::optional<subject::Capabilities> capabilities_;
  std::optional<std::optional<driver::IdentifiedCase>> sound_case_;
  int num_folders_ = 0;
};

// "pass", or the verdict with its reason, the first finding and the line that repeats the case.
std::string record_text(const record::CaseRecord& record);

// Sends the same request to all ranks.
launch::CallResult ask(launch::RankPool& pool, const base::Json& request, model::Dim world_size, std::chrono::milliseconds limit);
base::Json open_request(const cases::Case& one, const launch::RankPool& pool, const std::filesystem::path& checkpoint,
                        const std::filesystem::path& trace);
// "forward" and so on of a case without saves, from load to close, in the order in which the driver asks for them.
std::vector<base::Json> requests_after_open(const cases::Case& one);
// What a rank did instead of answering; empty if it answered.
std::string silence_text(const launch::RankOutcome& outcome);

}  // namespace moecheck::conformance
