// The taps that a check reads: which are there, and which of those have the declared shape and kind of element. A tap that
// one rank lacks or that has a wrong shape becomes a finding of every check that needs it (the judge keeps one of them): a
// check never skips what it cannot read in silence.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "harness/check/registry.h"
#include "harness/trace/layout.h"

namespace moecheck::check {

class Readable {
 public:
  // needed: a check cannot say anything without these. optional: read where they are there.
  Readable(const CheckInput& input, std::string_view check, std::vector<std::string_view> needed,
           std::vector<std::string_view> optional = {});

  // The tensor; nullptr where the rank lacks it or it is not as declared.
  const base::HostTensor* get(Dim rank, std::string_view tap) const;

  // Needed taps that no rank offers.
  const std::vector<std::string_view>& absent() const { return absent_; }
  // Unobserved, with a note that names the absent taps.
  CheckOutcome unobserved() const;

  // "not shown by any rank: a, b"; empty if all needed taps are there. For a check that can go on without some.
  std::string absence_note() const;

  const std::vector<record::Finding>& findings() const { return findings_; }

 private:
  void look_at(std::string_view tap, bool is_needed);
  void look_at_rank(std::string_view tap, Dim rank, bool is_needed);
  void report(std::string_view tap, Dim rank, std::string message);

  const CheckInput& input_;
  std::string_view check_;
  std::vector<std::string_view> absent_;
  std::vector<record::Finding> findings_;
};

// Those of the taps that a subject may be asked for in this batch: a phase of the batch writes them (`load` the first only,
// `step` one that ends a step), and this kind of layer and optimizer has them. The others are not missing.
std::vector<std::string_view> asked_taps(const CheckInput& input, std::span<const std::string_view> taps);

// Rows come back to the rank that has their tokens, and nothing is masked: some rank shows combine/rows_N3.
bool is_all_to_all(const CheckInput& input);

// The trace of a rank; nullptr if there is none.
const trace::RankTrace* rank_trace(const CheckInput& input, Dim rank);
// What the reference says about a tap; nullptr if it says nothing.
const trace::ExpectedTap* expected_tap(const CheckInput& input, Dim rank, std::string_view tap);
// What it says given only what goes into the layer, where the tap's stage cannot be judged; nullptr if nothing.
const trace::WholeTap* whole_tap(const CheckInput& input, Dim rank, std::string_view tap);

// Every sum of the forward is exact by construction: values=exact, until a step moves the weights.
bool is_exact(const CheckInput& input);

// A phase failed somewhere: taps that are missing then have an explanation already.
bool was_cut_short(const CheckInput& input);

// Why a tensor is not what the case declares for the rank that shows it; empty if it is.
std::string misfit(const model::Problem& problem, std::string_view tap, const trace::RankTrace& shown_by, const base::HostTensor& tensor);

// Contract findings for floating-point taps whose elements are not of the declared dtype (store_of).
std::vector<record::Finding> wrong_dtypes(const CheckInput& input, std::string_view check);

// The tensor of a rank; nullptr if it is not there or not as declared: what a subject wrote may be anything.
const base::HostTensor* fitting_tensor(const CheckInput& input, Dim rank, std::string_view tap);

// A finding of `check` about a tap of a rank; cls and message to be set, the rest to be added.
record::Finding make_finding(std::string_view check, std::string_view stage, Dim rank, std::string message);

// Sets state from what was found and compared: fail, else vacuous with `note` if nothing was compared, else pass.
void conclude(CheckOutcome& outcome, std::string_view vacuous_note);

}  // namespace moecheck::check
