// Where the reference takes its weights from: one expert at a time, so that memory does not grow with their number.
#pragma once

#include "harness/inputs/generator.h"
#include "reference/experts.h"

namespace moecheck::reference {

template <typename Scalar>
class Weights {
 public:
  virtual ~Weights() = default;
  virtual Matrix<Scalar> router_ED() = 0;
  // Valid until the next call.
  virtual const ExpertWeights<Scalar>& expert(Dim expert_id) = 0;
  // Whether they are known; if not, they must not be asked for.
  virtual bool has_router() const { return true; }
  virtual bool has_expert(Dim) const { return true; }
};

// The true weights. Holds one expert, whichever was asked for last.
// Requires: the generator outlives this.
template <typename Scalar>
class GeneratedWeights final : public Weights<Scalar> {
 public:
  explicit GeneratedWeights(const inputs::Generator& generator);
  Matrix<Scalar> router_ED() override;
  const ExpertWeights<Scalar>& expert(Dim expert_id) override;

 private:
  const inputs::Generator& generator_;
  ExpertWeights<Scalar> weights_;
};

// The tokens of the token shard of `rank`.
template <typename Scalar>
Matrix<Scalar> generated_tokens(const inputs::Generator& generator, Dim rank, Dim batch = 0);

}  // namespace moecheck::reference
