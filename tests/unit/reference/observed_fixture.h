// A trace of a sound subject, made from the reference's own formulas on the ranks of a mesh, for the tests of evaluate().
#pragma once

#include <string>

#include "harness/cases/case.h"
#include "harness/trace/expected.h"
#include "harness/trace/trace.h"
#include "tests/unit/reference/layer_fixtures.h"

namespace moecheck::reference {

// 12 experts over the mesh, top 2; normal or exact values.
cases::Case small_case(const std::string& mesh, model::Values values);
// The same with tokens sharded over these dimensions.
cases::Case small_case(const std::string& mesh, const std::vector<std::string>& tokens_over);

enum class Exchange {
  kGather,     // a rank sees all tokens of its layer group, its own or gathered (then it shows dispatch/tokens_S)
  kAllToAll,   // rows travel over the experts' dimensions and come back; of replicated tokens a rank sends its slice
};

// Rows lie as the layout says; recorded in fp64, so that recording rounds nothing.
trace::Trace sound_trace(const cases::Case& one, Exchange exchange = Exchange::kGather, Dim batch = 0);
// With other weights than the generated ones.
trace::Trace sound_trace(const cases::Case& one, Exchange exchange, Dim batch, StoredWeights<double>& weights);

// A mesh, what is sharded over it, and how rows travel; names are for tests.
struct Layout {
  std::string name;
  cases::Case one;
  Exchange exchange = Exchange::kGather;
};
// Replicated, gathered and all-to-all tokens, uneven and empty shards, expert_tp=one, fsdp, scores before the experts.
std::vector<Layout> layouts();

// evaluate() of a case with one batch.
trace::Expected evaluate_batch(const cases::Case& one, const trace::Trace& batch);

// A tensor without placement.
trace::Tapped whole(base::HostTensor tensor);
// The shard of a global (rows, columns) or (experts, rows, columns) parameter, as the layout gives it to the rank.
base::HostTensor local_shard(const model::Problem& problem, const std::string& tap, Dim rank, const base::HostTensor& global);

// Adds 1 to the first element of a tap, and only there.
trace::Trace perturbed(const trace::Trace& trace, std::size_t rank, const std::string& tap);
// Replaces row 0 of dispatch/rows_R3 of rank 0.
trace::Trace with_first_key(const trace::Trace& trace, std::vector<std::int64_t> token_slot_expert);

// Largest |expected - observed| / ((terms + few) u magnitude) over the comparable rows, both sides computed in double.
double used_by(const trace::ExpectedTap& tap, const base::HostTensor& observed);

// "rank tap" of every tap whose value, magnitude or comparable rows differ; "rank end_to_end" too.
std::vector<std::string> changed_taps(const trace::Expected& before, const trace::Expected& after);

}  // namespace moecheck::reference
