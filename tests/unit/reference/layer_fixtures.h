// Problems, editable weights and a naive second formulation, which the tests of the reference share.
#pragma once

#include <string>
#include <vector>

#include "harness/model/problem.h"
#include "reference/moe_layer.h"

namespace moecheck::reference {

struct RouterVariant {
  std::string name;
  model::ScoreFunction score_function;
  bool renormalise;
  model::ScorePosition position = model::ScorePosition::kAfterExperts;
};

// Qwen3-MoE, Switch, Mixtral.
std::vector<RouterVariant> router_variants();
// The same, and each with its scores before the experts.
std::vector<RouterVariant> layer_variants();

// 7 experts, top 3, sizes pairwise different and no powers of two.
model::Problem small_problem(const RouterVariant& variant = router_variants()[0]);
// top_k = 1, 2, 4 or 8 of 12 experts, exact values.
model::Problem exact_problem(Dim top_k, std::uint64_t seed);

// All weights in memory, so that a test may change them.
template <typename Scalar>
class StoredWeights final : public Weights<Scalar> {
 public:
  explicit StoredWeights(const model::Problem& problem) {
    const inputs::Generator generator(problem);
    GeneratedWeights<Scalar> generated(generator);
    w_router_ED = generated.router_ED();
    for (Dim e = 0; e < problem.model.num_experts; ++e) experts.push_back(generated.expert(e));
  }

  Matrix<Scalar> router_ED() override { return w_router_ED; }
  const ExpertWeights<Scalar>& expert(Dim expert_id) override { return experts.at(static_cast<std::size_t>(expert_id)); }

  Matrix<Scalar> w_router_ED;
  std::vector<ExpertWeights<Scalar>> experts;
};

// Notes which experts are asked for; an expert is valid only until the next one.
template <typename Scalar>
class CountingWeights final : public Weights<Scalar> {
 public:
  explicit CountingWeights(const inputs::Generator& generator) : generated_(generator) {}
  Matrix<Scalar> router_ED() override { return generated_.router_ED(); }
  const ExpertWeights<Scalar>& expert(Dim expert_id) override {
    asked.push_back(expert_id);
    return generated_.expert(expert_id);
  }
  std::vector<Dim> asked;

 private:
  GeneratedWeights<Scalar> generated_;
};

template <typename Scalar>
Matrix<Scalar> tokens_of(const model::Problem& problem) {
  return generated_tokens<Scalar>(inputs::Generator(problem), 0);
}

template <typename Scalar>
LayerOutput<Scalar> generated_forward(const model::Problem& problem) {
  const inputs::Generator generator(problem);
  GeneratedWeights<Scalar> weights(generator);
  return MoeLayer<Scalar>(problem.model, weights, problem.score_position).forward(generated_tokens<Scalar>(generator, 0));
}

// An element of the naive layer: its value, and how far an implementation with unit roundoff u may be from it.
struct Bounded {
  double value = 0;
  double bound = 0;
};

struct NaiveOutput {
  std::vector<std::vector<Dim>> ids;          // [token][slot]
  std::vector<std::vector<Bounded>> scores;   // [token][slot]
  std::vector<std::vector<Bounded>> y;        // [token][column]
};

// Loops over token, slot and element in double, from the generator's rows; shares no code with the reference.
NaiveOutput naive_forward(const model::Problem& problem, double unit_roundoff);

// Largest |a - y.value| / (factor * y.bound); NaN and a nonzero difference with a zero bound give infinity.
template <typename Scalar>
double used_bound(const Matrix<Scalar>& a_TD, const std::vector<std::vector<Bounded>>& b, double factor);
// The same with a second computed result in the place of the values.
template <typename Scalar>
double used_bound(const Matrix<Scalar>& a_TD, const Matrix<Scalar>& b_TD, const std::vector<std::vector<Bounded>>& bounds, double factor);

}  // namespace moecheck::reference
