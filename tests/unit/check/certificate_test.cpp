// Which sets of experts may be the top-k, as the function that the top-k is taken of sees the logits.
#include "harness/check/certificate.h"

#include <gtest/gtest.h>

namespace moecheck::check {
namespace {

using model::ScoreFunction;

TokenLogits seen_by(ScoreFunction score_function, std::vector<double> values, double bound = 0) {
  model::ModelSpec model;
  model.score_function = score_function;
  const auto size = values.size();
  return as_choice_sees(model, {std::move(values), std::vector<double>(size, bound)});
}

bool admits(const TokenLogits& logits, const std::vector<Dim>& chosen) { return certify(logits, chosen).is_admissible; }

TEST(Certificate, OfLogitsThemselvesAdmitsTheTopKOnly) {
  const TokenLogits logits = seen_by(ScoreFunction::kSoftmaxAfterTopk, {-200, -300, 5});
  EXPECT_TRUE(admits(logits, {0, 2}));
  EXPECT_FALSE(admits(logits, {1, 2}));
}

TEST(Certificate, OfASoftmaxAdmitsAnyOrderOfWhatFp32FlushesToZero) {
  EXPECT_TRUE(admits(seen_by(ScoreFunction::kSoftmaxBeforeTopk, {-200, -300, 5}), {1, 2}));
  EXPECT_FALSE(admits(seen_by(ScoreFunction::kSoftmaxBeforeTopk, {-20, -30, 5}), {1, 2}));
}

TEST(Certificate, OfSigmoidsAdmitsAnyOrderOfWhatFp32RoundsToOne) {
  EXPECT_TRUE(admits(seen_by(ScoreFunction::kSigmoid, {20, 25, -1}), {0}));
  EXPECT_FALSE(admits(seen_by(ScoreFunction::kSigmoid, {5, 6, -1}), {0}));
  EXPECT_FALSE(admits(seen_by(ScoreFunction::kSigmoid, {20, 25, 3}), {2}));
}

TEST(Certificate, OfSigmoidsTellsSmallOnesApart) {
  EXPECT_FALSE(admits(seen_by(ScoreFunction::kSigmoid, {-40, -30, -50}), {0}));
  EXPECT_TRUE(admits(seen_by(ScoreFunction::kSigmoid, {-40, -30, -50}), {1}));
}

TEST(Certificate, OfSigmoidsTakesTheBoundsOfTheLogitsAlong) {
  EXPECT_FALSE(admits(seen_by(ScoreFunction::kSigmoid, {1.0, 1.1}), {0}));
  EXPECT_TRUE(admits(seen_by(ScoreFunction::kSigmoid, {1.0, 1.1}, 0.06), {0}));
  EXPECT_FALSE(admits(seen_by(ScoreFunction::kSigmoid, {1.0, 1.1}, 0.04), {0}));
}

TEST(Certificate, SaysWhenTheBorderIsTied) {
  EXPECT_TRUE(certify(seen_by(ScoreFunction::kSigmoid, {0.5, 0.5, -1}), {0}).is_tied);
  EXPECT_FALSE(certify(seen_by(ScoreFunction::kSigmoid, {0.5, 0.25, -1}), {0}).is_tied);
}

}  // namespace
}  // namespace moecheck::check
