#include "harness/tolerance/bounds.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "harness/base/require.h"

namespace moecheck::tolerance {
namespace {

constexpr double kAccumulator = 0x1p-24;  // u_a: unit roundoff of fp32

// Softmax beside its sum: two exponentials of 1 ulp (4 u), shift by the maximum counted apart, division by the sum and
// renormalisation with its own sum's last rounding (3 u), and as much again, since vector libraries promise 1 to 2 ulp.
constexpr double kSoftmaxRoundings = 16;
// Of a sigmoid: exponential 2 ulp (4 u), sum, division, two spare.
constexpr double kSigmoidRoundings = 8;
// Top-k on probabilities: exponential and division of both (6 u), two spare; the common denominator cancels but for its use.
constexpr double kOrderRoundings = 8;
// swish(g) = g / (1 + exp(-alpha g)): exponential 2 ulp (4 u), sum, division, product, one spare.
constexpr double kSwishRoundings = 8;
// swish stored, then the product stored: two roundings to the dtype where a fused kernel has one.
constexpr std::int64_t kActivationStores = 2;
// exp(-g) overflows fp32 for g < -88.7, where |silu(g)| < 2^-121; zero is then a fair answer. Times |up| up to 8.
constexpr double kSwishFlush = 0x1p-118;

// Norm beside its sum: square and root of the parts, square of those, the last root, and a factor on the way.
constexpr std::int64_t kNormRoundings = 8;
// A sum of more squares than these is taken in blocks by everyone; the bound is then 6 %.
constexpr std::int64_t kMaxSquares = std::int64_t{1} << 21;

// A probability below the smallest normal number of fp32 may be flushed, or come from an exponential that is coarse there.
constexpr double kSoftmaxFlush = 0x1p-126;
// The same times gradients of routing weights up to 2^8.
constexpr double kSoftmaxGradientFlush = 0x1p-118;

struct StageName {
  std::string_view tap;
  Stage stage;
};

constexpr std::array kStages = {
    StageName{"input/x_TD", Stage::kExact},           StageName{"experts/in_RD", Stage::kDispatch},
    StageName{"router/logits_TE", Stage::kMatmul},
    StageName{"router/scores_TK", Stage::kScores},    StageName{"experts/gate_up_RG", Stage::kMatmul},
    StageName{"experts/act_RF", Stage::kActivation},  StageName{"experts/out_RD", Stage::kMatmul},
    StageName{"combine/partial_TD", Stage::kCombine}, StageName{"output/y_TD", Stage::kReduction},
    StageName{"grad/y_TD", Stage::kExact},            StageName{"grad/out_RD", Stage::kGradient},
    StageName{"grad/act_RF", Stage::kGradient},       StageName{"grad/gate_up_RG", Stage::kGradient},
    StageName{"grad/experts/down_EDF", Stage::kGradient}, StageName{"grad/experts/gate_up_EGD", Stage::kGradient},
    StageName{"grad/scores_TK", Stage::kGradient},    StageName{"grad/logits_TE", Stage::kSoftmaxGradient},
    StageName{"grad/router/w_ED", Stage::kGradient},  StageName{"grad/x_TD", Stage::kGradient},
    StageName{"grad/in_RD", Stage::kGradient},        StageName{"optim/norm_1", Stage::kNorm},
    StageName{"optim/clip_1", Stage::kOptimizer},
};

// For each parameter one.
constexpr std::array kStepStages = {
    StageName{"optim/grad/", Stage::kOptimizer}, StageName{"optim/m/", Stage::kOptimizer},  StageName{"optim/v/", Stage::kOptimizer},
    StageName{"optim/master/", Stage::kOptimizer}, StageName{"optim/param/", Stage::kExact},
};

}  // namespace

std::optional<Stage> stage_of_tap(std::string_view tap) {
  for (const StageName& row : kStages)
    if (row.tap == tap) return row.stage;
  for (const StageName& row : kStepStages)
    if (tap.starts_with(row.tap)) return row.stage;
  return std::nullopt;
}

double gamma(std::int64_t n, double u) {
  const double nu = static_cast<double>(n) * u;
  MOECHECK_REQUIRE(n >= 0 && nu < 1, std::to_string(n));
  return nu / (1 - nu);
}

StageBound::StageBound(Stage stage, base::DType store, std::int64_t terms, std::int64_t roundings)
    : stage_(stage), u_s_(base::unit_roundoff(store)), underflow_(base::underflow_unit(store) * static_cast<double>(terms + 1)),
      terms_(static_cast<double>(terms)) {
  switch (stage) {
    case Stage::kExact:
    case Stage::kScores: break;
    case Stage::kActivation:
      accumulated_ = (1 + kSwishRoundings * kAccumulator) * std::pow(1 + u_s_, static_cast<double>(kActivationStores + roundings)) - 1;
      break;
    case Stage::kDispatch: underflow_ = base::underflow_unit(store); break;
    case Stage::kMatmul: accumulated_ = gamma(terms, kAccumulator); break;
    case Stage::kCombine: accumulated_ = gamma(terms, u_s_); break;
    case Stage::kReduction: accumulated_ = terms <= 1 ? 0 : gamma(terms - 1, u_s_); break;
    case Stage::kSoftmaxGradient:
    case Stage::kGradient:
      accumulated_ = gamma(terms, kAccumulator);
      stored_ = gamma(roundings, u_s_);
      break;
    case Stage::kOptimizer:
      accumulated_ = gamma(terms, kAccumulator);
      underflow_ = base::underflow_unit(base::DType::kF32) * terms_;
      break;
    // All summands are positive, so that n roundings of the sum lie between factors (1 - u)^n and (1 + u)^n, and the root halves the
    // exponent. A square may underflow.
    case Stage::kNorm:
      accumulated_ = gamma((std::min(terms, kMaxSquares) + 1) / 2 + kNormRoundings, kAccumulator);
      underflow_ = std::sqrt(terms_ * base::underflow_unit(base::DType::kF32));
      break;
  }
}

// Relative. A shifted exponent x - max carries u |x - max|, which for a score w is at most u ln(1/w), and on average over the
// softmax at most u ln E (Blanchard, D. J. Higham, N. J. Higham, IMA J. Numer. Anal. 2021, for the rest).
double StageBound::scores_bound(double value) const {
  const double weight = std::fabs(value);
  if (weight == 0) return 0;  // an exact zero, or far below any storable probability: underflow is added by the caller
  const double shift = std::fmax(0.0, -std::log(weight)) + std::log(terms_);
  const double computed = (terms_ + kSoftmaxRoundings + shift) * kAccumulator;
  return weight * (computed + u_s_ * (1 + computed));
}

double StageBound::of(double value, double magnitude, double stored) const {
  const double size = std::fabs(value);
  switch (stage_) {
    case Stage::kExact: return 0;
    // One rounding of one product.
    case Stage::kDispatch: return terms_ == 0 ? 0 : u_s_ * size + underflow_;
    case Stage::kOptimizer: return accumulated_ * magnitude + underflow_;
    case Stage::kNorm: return accumulated_ * size + underflow_;
    // B = gamma_K sum|a b| + u_s |c|. The stored number is the accumulated one, hence u_s on |c| plus its error.
    case Stage::kMatmul: return accumulated_ * magnitude + u_s_ * (size + accumulated_ * magnitude) + underflow_;
    case Stage::kScores: return scores_bound(value) + underflow_ + kSoftmaxFlush;
    case Stage::kActivation: return accumulated_ * magnitude + kSwishFlush + underflow_;
    // Each product rounded to the dtype, then a running sum in the dtype (index_add_ into a bf16 buffer does that).
    case Stage::kCombine: return (u_s_ + accumulated_) * magnitude + u_s_ * size + underflow_;
    // A ring adds P - 1 times in the dtype, on partial sums of any order: sum |x_r|, not |sum x_r|.
    case Stage::kReduction: return terms_ <= 1 ? 0 : accumulated_ * magnitude + u_s_ * size + underflow_;
    // B = gamma_n sum|a b| in the accumulator, gamma_r of the stored parts, one last store.
    case Stage::kSoftmaxGradient:
    case Stage::kGradient: {
      const double accumulated = accumulated_ * magnitude + stored_ * stored;
      const double flush = stage_ == Stage::kSoftmaxGradient ? kSoftmaxGradientFlush : 0;
      return accumulated + u_s_ * (size + accumulated) + underflow_ + flush;
    }
  }
  MOECHECK_REQUIRE(false, "stage without a bound");
  return 0;
}

double stage_bound(const StageBoundInput& in) {
  return StageBound(in.stage, in.store, in.terms, in.roundings).of(in.value, in.magnitude, in.stored);
}

double softmax_order_slack(std::int64_t num_experts) {
  return (static_cast<double>(num_experts) + kOrderRoundings) * kAccumulator;
}

double sigmoid_order_slack(double value) { return kSigmoidRoundings * kAccumulator * std::fabs(value) + kSoftmaxFlush; }

double softmax_flush_distance() {
  return -std::log(kSoftmaxFlush);
}

double used(double err, double bound) {
  if (std::isnan(err) || std::isnan(bound)) return std::numeric_limits<double>::quiet_NaN();
  if (bound == 0) return err == 0 ? 0 : std::numeric_limits<double>::infinity();
  return err / bound;
}

}  // namespace moecheck::tolerance
