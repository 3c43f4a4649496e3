// The checks: pure functions of (case, expected, observed). A check registers itself in its own file under rules/.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "harness/cases/lives.h"
#include "harness/checkpoint/checkpoint.h"
#include "harness/record/run_record.h"
#include "harness/trace/expected.h"
#include "harness/trace/trace.h"

namespace moecheck::check {

using model::Dim;

// A phase that a rank accepted and did not finish: it raised.
struct PhaseFailure {
  std::int64_t rank = 0;
  std::string phase;
  std::string message;
  std::string traceback;
  Dim batch = 0;           // in which it failed
  std::size_t life = 0;    // likewise
};

using trace::CollectiveMismatch;

// One batch of a case. A check of a case with several batches runs once for each.
struct CheckInput {
  const cases::Case& one;
  const trace::Expected& expected;
  const trace::Trace& observed;
  std::vector<PhaseFailure> phase_failures = {};
  Dim batch = 0;                                  // microbatch batch % microbatches of step batch / microbatches
  std::span<const trace::Trace> earlier = {};     // batches 0 .. batch - 1
  std::optional<CollectiveMismatch> mismatch = {};
};

// One life of a case (harness/cases/lives.h).
struct LifeInput {
  const cases::Life& life;
  const trace::Trace& loaded;                         // the phase load alone, with the optimizer state that it brought
  std::span<const trace::Trace> batches;              // by number; see trace::read_trace for those before life.one.first_batch
  std::span<const trace::Expected> expected;          // likewise
  std::map<Dim, checkpoint::Checkpoint> saves = {};   // what lies on disk, sound or not, by the steps before
};

// All lives of a case that ended as planned: a case whose run broke off is not judged across lives.
struct CaseInput {
  const cases::Case& one;
  std::span<const LifeInput> lives;
};

struct CheckOutcome {
  record::CheckState state = record::CheckState::kNotApplicable;
  std::int64_t compared = 0;   // elements, rows or keys
  std::string note;            // why unobserved, not applicable or vacuous
  std::vector<record::Finding> findings;
  std::vector<record::StageCell> stages;   // only stage_diff fills these
  std::vector<record::ExpertCell> experts; // only expert_census and token_conservation fill these; the judge merges them
};

// The doc block of a check; `moecheck explain` and the docs print it.
struct CheckDoc {
  std::string_view proves;
  std::string_view cannot_prove;
  std::string_view reads;
  std::string_view applies_when;
};

// Looks at one batch after the other, or across the lives of a case: one of the two.
struct Check {
  std::string_view name;
  CheckDoc doc;
  CheckOutcome (*run)(const CheckInput& input) = nullptr;
  CheckOutcome (*run_case)(const CaseInput& input) = nullptr;
};

const std::vector<Check>& checks();  // sorted by name
const Check* find_check(std::string_view name);
bool register_check(const Check& check);

}  // namespace moecheck::check

#define MOECHECK_REGISTER_CHECK(...) \
  [[maybe_unused]] static const bool moecheck_registered_check = ::moecheck::check::register_check(__VA_ARGS__)
