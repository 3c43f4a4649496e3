#include "harness/tolerance/envelope.h"

#include <cmath>

#include "harness/tolerance/bounds.h"

namespace moecheck::tolerance {

EnvelopeVerdict judge_envelope(const Spread& spread) {
  if (spread.num_controls < kFewestControls) return EnvelopeVerdict::kUncertain;
  const double usual = spread.num_elements >= kManyElements ? kUsualFactor : 1;
  if (within(spread.distance, usual * spread.envelope)) return EnvelopeVerdict::kWithin;
  return within(spread.distance, kEnvelopeFactor * spread.envelope) ? EnvelopeVerdict::kUncertain : EnvelopeVerdict::kBeyond;
}

double rounding_distance(double unit_roundoff, double largest) { return std::sqrt(kFewRoundings) * 2 * unit_roundoff * largest; }

double rank_test_level(std::int64_t num_controls) { return 1.0 / static_cast<double>(num_controls + 1); }

}  // namespace moecheck::tolerance
