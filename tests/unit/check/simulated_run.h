// A sound run of a case, made in one process in plain loops: what honest ranks would have shown. Tests damage it and look at
// what the checks say. Shares no code with the reference or the implementations.
#pragma once

#include <string>
#include <vector>

#include "harness/check/judge.h"

namespace moecheck::check {

// Which kind of layer is simulated.
enum class Dispatch {
  kOwnTokens,   // every rank computes its own tokens with its experts, partial results are summed
  kGathered,    // tokens are gathered first
  kAllToAll,    // rows travel to their experts and back
};

std::vector<model::Dim> indices(model::Dim first, model::Dim count);
// Judges the batches of a case with one life.
base::Result<record::CaseRecord> judge_alone(const cases::Case& one, std::span<const trace::Expected> expected, std::span<const trace::Trace> batches,
                                             std::vector<PhaseFailure> failures = {});
// As a rank shows it, replicated.
void put(trace::RankTrace& rank, const std::string& tap, base::HostTensor tensor);

class SimulatedRun {
 public:
  // E=12, K=3, D=14, F=10, 7 and 5 tokens unless said otherwise: "mesh=ep=2 dtype=bf16".
  explicit SimulatedRun(const std::string& knobs, Dispatch how = Dispatch::kOwnTokens);

  // Computes the forward of a batch again from the parameters as they stand in the trace.
  void forward(model::Dim batch = 0);
  // The stages from combine on again, from the rows and scores as they stand in the trace.
  void combine_and_reduce();
  void reduce();

  base::HostTensor& tensor(model::Dim rank, const std::string& tap);
  // Tokens count from the rank's first here. Row of (token, slot) in the row taps of a rank; -1 if it computes none.
  model::Dim row_of(model::Dim rank, model::Dim token, model::Dim slot);
  model::Dim id(model::Dim rank, model::Dim token, model::Dim slot);
  // First (token, slot) of the rank that it computes, or that lives elsewhere.
  struct Place {
    model::Dim token = -1;
    model::Dim slot = -1;
    model::Dim expert = -1;
  };
  Place first_slot(model::Dim rank, bool is_local);
  // Shard of a parameter for given global indices.
  base::HostTensor experts_part(const std::string& tap, const std::vector<model::Dim>& experts, const std::vector<model::Dim>& rows,
                                const std::vector<model::Dim>& columns) const;

  // Expected is evaluated from the trace as it stands.
  CheckOutcome check(const std::string& name) const;
  // A check that reads no expected value.
  CheckOutcome check_observed(const std::string& name) const;
  record::CaseRecord judged() const;

  cases::Case one;
  trace::Trace observed;
  std::vector<PhaseFailure> failures;

 private:
  // A routed row: its key, and the rank and row that its token's input is read from.
  struct Row {
    model::Dim token = 0, slot = 0, expert = 0;
    model::Dim owner = 0, at = 0;
  };
  void load(trace::RankTrace& rank) const;
  void route(trace::RankTrace& rank) const;
  void dispatch(trace::RankTrace& rank) const;
  void show_given(trace::RankTrace& rank, const std::vector<Row>& slots) const;
  void compute(trace::RankTrace& rank) const;
  void combine(trace::RankTrace& rank) const;
  void sum_row(const trace::RankTrace& computer, model::Dim row, double score, base::HostTensor& partial, model::Dim at) const;

  base::HostTensor whole(model::Dim rank, const std::string& tap) const;   // what fsdp gathers
  std::vector<model::Dim> slot_tokens(model::Dim rank) const;
  Row owned(model::Dim rank, model::Dim token) const;
  // All-to-all: `sender` sends the rows of its token to `receiver`, if that holds their expert.
  bool sends(model::Dim sender, model::Dim token, model::Dim receiver) const;
  model::Dim first_expert(model::Dim rank) const;
  model::Dim num_local_experts() const;
  const trace::RankTrace& at(model::Dim rank) const { return observed.ranks.at(static_cast<std::size_t>(rank)); }

  Dispatch how_;
};

// The first failing finding of an outcome; aborts if there is none.
const record::Finding& first_failure(const CheckOutcome& outcome);
std::string messages(const CheckOutcome& outcome);

}  // namespace moecheck::check
