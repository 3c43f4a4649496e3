// The weights that a batch began with, put together from what the ranks show of them.
#pragma once

#include <vector>

#include "harness/model/problem.h"
#include "harness/trace/trace.h"
#include "reference/weights.h"

namespace moecheck::reference {

// After an optimizer's step nobody but the subject knows the weights; that the step was right is checked at optim/*.
// A weight is unknown if no rank shows some part of it in the shape that the layout gives the rank. Of replicas the lowest
// rank's is taken: one that differs shows at the stage of the other rank that multiplies with it.
class ObservedWeights final : public Weights<float> {
 public:
  // Requires: problem and trace outlive this.
  ObservedWeights(const model::Problem& problem, const trace::Trace& trace);

  Matrix<float> router_ED() override { return router_ED_; }
  const ExpertWeights<float>& expert(Dim expert_id) override;
  bool has_router() const override { return has_router_; }
  bool has_expert(Dim expert_id) const override;

 private:
  const model::Problem& problem_;
  const trace::Trace& trace_;
  bool has_router_ = false;
  Matrix<float> router_ED_;
  // The expert that was asked for last, if it is known.
  mutable Dim held_expert_ = -1;
  mutable bool is_held_whole_ = false;
  mutable ExpertWeights<float> weights_;
};

}  // namespace moecheck::reference
