// A layer small enough to be worked out by hand, and short ways to write its matrices down.
#pragma once

#include <vector>

#include <gtest/gtest.h>

#include "harness/model/model_spec.h"
#include "reference/weights.h"

namespace moecheck::reference {

inline constexpr double kLn2 = 0.69314718055994530942;
inline constexpr double kLn3 = 1.09861228866810969140;

inline Matrix<double> matrix(Dim rows, Dim columns, std::vector<double> values) {
  return Eigen::Map<const Matrix<double>>(values.data(), rows, columns);
}

inline IdMatrix ids(Dim rows, Dim columns, std::vector<Dim> values) {
  return Eigen::Map<const IdMatrix>(values.data(), rows, columns);
}

inline void expect_near(const Matrix<double>& computed, const Matrix<double>& expected) {
  ASSERT_EQ(computed.rows(), expected.rows());
  ASSERT_EQ(computed.cols(), expected.cols());
  constexpr double kFewRoundings = 16 * 0x1p-53;
  EXPECT_LE((computed - expected).cwiseAbs().maxCoeff(), kFewRoundings * expected.cwiseAbs().maxCoeff())
      << "computed\n" << computed << "\nexpected\n" << expected;
}

inline model::ModelSpec spec(Dim num_experts, Dim top_k, model::ScoreFunction order, bool renormalise) {
  model::ModelSpec made;
  made.num_experts = num_experts;
  made.top_k = top_k;
  made.score_function = order;
  made.renormalise = renormalise;
  return made;
}

// One token x = (1, 2), two experts with F = 1, both chosen, scores 3/4 and 1/4.
// Expert 0: gate = ln 3 * x0 -> silu = 3/4 ln 3, up = x1 = 2, act = 3/2 ln 3, down (2, 4) -> (3 ln 3, 6 ln 3).
// Expert 1: gate = -ln 3 * x0 -> silu = -1/4 ln 3, up = x0 + x1 = 3, act = -3/4 ln 3, down (4, 0) -> (-3 ln 3, 0).
// y = 3/4 (3, 6) ln 3 + 1/4 (-3, 0) ln 3 = (3/2, 9/2) ln 3.
class HandWeights final : public Weights<double> {
 public:
  HandWeights()
      : experts_{{matrix(2, 2, {kLn3, 0, 0, 1}), matrix(2, 1, {2, 4})}, {matrix(2, 2, {-kLn3, 0, 1, 1}), matrix(2, 1, {4, 0})}} {}
  Matrix<double> router_ED() override { return matrix(2, 2, {kLn3, 0, 0, 0}); }
  const ExpertWeights<double>& expert(Dim expert_id) override { return experts_[static_cast<std::size_t>(expert_id)]; }

 private:
  std::vector<ExpertWeights<double>> experts_;
};

// Of HandWeights.
inline model::ModelSpec hand_spec(Dim top_k, bool renormalise) {
  model::ModelSpec made = spec(2, top_k, model::ScoreFunction::kSoftmaxBeforeTopk, renormalise);
  made.d_model = 2;
  made.d_ff = 1;
  return made;
}

}  // namespace moecheck::reference
