// The step of a training: accumulation over microbatches, clipping by the global norm, and LibTorch's own optimizers on fp32
// master weights.
#pragma once

#include <memory>
#include <vector>

#include "parallel_impls/layer/layer.h"

namespace torch::optim {
class Optimizer;
}

namespace moecheck::parallel_impls {

class Training {
 public:
  // loaded: as loaded; the masters begin with these values.
  Training(LayerContext context, const LoadedLayer& loaded);
  ~Training();
  Training(const Training&) = delete;
  Training& operator=(const Training&) = delete;

  // Gradients of one microbatch, after their reductions.
  void accumulate(const LayerParams& gradients);
  // Ranks: every rank of the mesh. Writes the trainable parameters of `params`. Taps optim/*.
  void step(LayerParams& params, Tapper& tapper);

  std::vector<trace::DeclaredCollective> declared() const;

 private:
  bool is_adamw() const { return context_.one.training.optimizer == cases::OptimizerKind::kAdamW; }
  at::Tensor global_norm() const;
  void tap(std::string_view prefix, const LayerParams& tensors, Tapper& tapper) const;
  void tap_state(Tapper& tapper) const;

  LayerContext context_;
  ParamCuts cuts_;
  LayerParams masters_;      // fp32, leaves of the optimizer
  LayerParams gradients_;    // fp32, summed over microbatches
  std::unique_ptr<torch::optim::Optimizer> optimizer_;
};

}  // namespace moecheck::parallel_impls
