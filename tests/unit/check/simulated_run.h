// A sound run of a case, made in one process in plain loops: what honest ranks would have shown. Tests damage it and look at
// what the checks say. Shares no code with the reference or the implementations.
#pragma once

#include <string>
#include <vector>

#include "harness/check/judge.h"

namespace moecheck::check {

class SimulatedRun {
 public:
  // E=12, K=3, D=14, F=10, 7 and 5 tokens unless said otherwise: "mesh=ep=2 dtype=bf16".
  explicit SimulatedRun(const std::string& knobs);

  // Computes the forward again from the parameters as they stand in the trace.
  void forward();
  // The stages from combine on again, from the rows and scores as they stand in the trace.
  void combine_and_reduce();
  void reduce();

  base::HostTensor& tensor(model::Dim rank, const std::string& tap);
  // Row of (token, slot) in the row taps of a rank; -1 if it computes none.
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
  record::CaseRecord judged() const;

  cases::Case one;
  trace::Trace observed;
  std::vector<PhaseFailure> failures;

 private:
  void load(trace::RankTrace& rank) const;
  void route(trace::RankTrace& rank) const;
  void dispatch(trace::RankTrace& rank) const;
  void compute(trace::RankTrace& rank) const;
  void combine(trace::RankTrace& rank) const;
};

// The first failing finding of an outcome; aborts if there is none.
const record::Finding& first_failure(const CheckOutcome& outcome);
std::string messages(const CheckOutcome& outcome);

}  // namespace moecheck::check
