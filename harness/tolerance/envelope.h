// How far a run may be from others that should be the same, where these differ among themselves: no bit is certain then, and the
// runs that nothing was done to (controls) say what is usual.
//
// With R controls the envelope is the largest distance between two of them. Of R + 1 runs of one kind at most one is farther from all
// others than those are from each other; that it is the run under test has a probability of at most 1 / (R + 1). That is the level of
// this rank test, for one distance; of many some will be beyond, which is why that alone is no bug.
#pragma once

#include <cstdint>

namespace moecheck::tolerance {

// Fewer tell nothing about how far apart runs usually are.
inline constexpr std::int64_t kFewestControls = 2;

// Beyond the envelope times kEnvelopeFactor a run is called wrong. Where the distance rests on kManyElements or more, one up to
// kUsualFactor times the envelope is still usual: so many independent errors hardly differ in size from run to run. How often an alike
// run is beyond the envelope times 1, 2 and 4, for independent normal errors in n elements (simulated, 40,000 trials each, 8,000
// from n = 30 on; "-" for none):
//            R = 2                    R = 3                    R = 5
//   n = 1    0.34    0.21    0.12     0.13    0.054   0.018    0.030   0.006   0.0007
//   n = 4    0.34    0.054   0.005    0.10    0.003   -        0.012   -       -
//   n = 10   0.34    0.006   -        0.09    0.0001  -        0.008   -       -
//   n = 30   0.34    -       -        0.08    -       -        0.006   -       -
//   n = 100  0.33    -       -        0.08    -       -        0.005   -       -
// So two controls do where many elements err, and not where noise is in a single one: take three or more there. Larger factors help
// little (8: 0.065 for R = 2, n = 1) and hide more.
inline constexpr double kUsualFactor = 2;
inline constexpr double kEnvelopeFactor = 4;
inline constexpr double kManyElements = 30;

enum class EnvelopeVerdict {
  kWithin,      // usual
  kUncertain,   // farther than usual, or there are too few controls: cannot be told
  kBeyond,
};

struct Spread {
  double distance = 0;              // the run's smallest one to a control; NaN is beyond
  double envelope = 0;              // the largest one between two controls
  std::int64_t num_controls = 0;
  double num_elements = 1;          // that the envelope rests on
};
EnvelopeVerdict judge_envelope(const Spread& spread);

// Noise of a low precision is sparse: most elements are rounded to the same bits in all runs, a few to a neighbour, and in which run
// that happens is chance. As far apart, (2 u) |largest| in each of so many elements, runs may be where the controls agree.
inline constexpr double kFewRoundings = 4;
double rounding_distance(double unit_roundoff, double largest);

// 1 / (R + 1).
double rank_test_level(std::int64_t num_controls);

}  // namespace moecheck::tolerance
