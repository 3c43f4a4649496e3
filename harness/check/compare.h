// Compares an observed tensor with what the reference expects, element by element, each with its own bound.
#pragma once

#include <limits>
#include <optional>
#include <string_view>

#include "harness/base/host_tensor.h"
#include "harness/cases/case.h"
#include "harness/record/finding.h"
#include "harness/tolerance/bounds.h"
#include "harness/trace/expected.h"

namespace moecheck::check {

// Dtype that a tap is declared to have: the case's, fp32 or int64. Requires: the table has the tap.
base::DType store_of(const cases::Case& one, std::string_view tap);

struct CompareRule {
  std::string_view tap;        // names the stage, and so the bound
  base::DType store;           // declared dtype
  bool is_exact = false;       // bound 0: got must equal the expected value rounded to the dtype
  // Exact only where sums of multiples of this unit cannot round: |summands| up to unit / u_s. 0: everywhere.
  double exact_unit = 0;
};

struct Comparison {
  std::int64_t compared = 0;         // elements
  std::int64_t skipped_rows = 0;     // the reference could not say: inputs missing or unusable
  std::int64_t num_rows = 0;         // compared
  std::int64_t rows_over = 0;
  std::int64_t elements_over = 0;
  bool all_zero = true;              // both sides, everywhere
  // The worst element: largest used; one that is NaN or infinite where a number is expected is worse than all.
  std::int64_t worst = -1;           // flat index; -1 if nothing was compared
  double want = 0;
  double got = 0;
  double measured = 0;
  double bound = 0;
  double used = 0;
};

// What was compared, and the worst element of it.
void set_figures(const Comparison& comparison, record::Finding& finding);

// Elements whose expected value is NaN or infinite are not compared: the stage's own inputs were bad, another stage is to blame.
// Requires: got has the shape of expected.value.
Comparison compare_tap(const base::HostTensor& got, const trace::ExpectedTap& expected, const CompareRule& rule);
// The same with the bounds that the reference composed; a bound of 0 demands the value rounded to the dtype.
Comparison compare_whole(const base::HostTensor& got, const trace::WholeTap& expected, base::DType store);

// Largest |got - want| allowed at each element of a stage; the expected values may be rounded first (exact). What does not depend
// on the element is looked up once. Requires: `expected` outlives this.
class ElementBounds {
 public:
  ElementBounds(const trace::ExpectedTap& expected, const CompareRule& rule);
  double at(std::int64_t flat_index) const;

 private:
  const trace::ExpectedTap& expected_;
  bool is_exact_, has_magnitude_, has_stored_;
  double exact_limit_ = std::numeric_limits<double>::infinity();   // sums up to here cannot round
  std::optional<tolerance::StageBound> bound_;
};

// The largest power of two that all values of a tap are multiples of; 0 if all are zero.
double unit_of(const trace::ExpectedTap& expected);

// Dtype and bits of element `at_a` of one and `at_b` of the other agree. Requires: they have them.
bool same_element_bits(const base::HostTensor& a, std::int64_t at_a, const base::HostTensor& b, std::int64_t at_b);

}  // namespace moecheck::check
