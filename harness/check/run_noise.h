// How far apart runs are that are alike but for noise: over all taps of a kind at once, so that the figure rests on many elements,
// where a single one, as the gradients' norm, may agree by chance.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "harness/base/host_tensor.h"
#include "harness/trace/trace.h"

namespace moecheck::check {

// Elements of one rank's tensor in which two runs differ.
struct Difference {
  bool is_comparable = true;   // both show it, of one dtype and shape; or neither does
  std::int64_t count = 0;
  std::int64_t worst = -1;     // flat index; a NaN is worst
  double largest = 0;
  double squares = 0;          // sum of
  double fourth_powers = 0;    // likewise
};
Difference difference(const base::HostTensor* a, const base::HostTensor* b);

// Taps in which noise is of one kind: "router", "grad", "optim/m", ... The gradients' norm is with them.
std::string_view kind_of(std::string_view tap);

// The same batch with routed rows in the order of their keys, where a rank shows these: in which order it computes them is its own
// business. Padding comes last.
trace::Trace in_key_order(const trace::Trace& batch);

struct Apart {
  double distance = 0;       // Euclidean, in root mean squares of the taps; infinite where shapes differ
  double num_elements = 0;   // how many carry it: (sum of squares)^2 / sum of fourth powers
  std::string_view tap;      // where most of it is
  std::size_t rank = 0;
};

// Measures one kind of taps of one batch. An element counts in units of its tap's root mean square over all controls, so that
// large values do not drown small ones.
class NoiseScale {
 public:
  // dtype: the case's, in which values are rounded that a wider one may hold. Requires: the traces outlive this.
  NoiseScale(const std::vector<std::string_view>& taps, const std::vector<const trace::Trace*>& controls, base::DType dtype);

  Apart apart(const trace::Trace& a, const trace::Trace& b) const;
  // The distance of two runs that round a few of the largest elements differently (tolerance::rounding_distance).
  double of_rounding() const { return of_rounding_; }

 private:
  struct ScaledTap {
    std::string_view tap;
    double size = 1;
  };
  std::vector<ScaledTap> taps_;
  double of_rounding_ = 0;
};

}  // namespace moecheck::check
