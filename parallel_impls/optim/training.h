// The step of a training: accumulation over microbatches, clipping by the global norm, and LibTorch's own optimizers on fp32
// master weights.
#pragma once

#include <memory>
#include <vector>

#include "parallel_impls/layer/sharding.h"

namespace torch::optim {
class Optimizer;
}

namespace moecheck::parallel_impls {

class Training {
 public:
  // params: as loaded; the masters begin with these values.
  Training(LayerContext context, const LayerParams& params, Sharding sharding);
  ~Training();
  Training(const Training&) = delete;
  Training& operator=(const Training&) = delete;

  // Gradients of one microbatch, after their reductions.
  void accumulate(const LayerParams& gradients);
  // Ranks: every rank of the mesh. Writes the trainable parameters of `params`. Taps optim/*.
  void step(LayerParams& params, double learning_rate, Tapper& tapper);

  // Masters, moments and step counts, sharing their storage; what the optimizer does not have yet is not in it.
  std::vector<PlacedTensor> state() const;
  // The same, blank, for a load to fill; has: whether the load will bring it. Call finish_restoring() afterwards.
  std::vector<PlacedTensor> blank_state(const std::function<bool(std::string_view name)>& has);
  void finish_restoring();

  std::vector<trace::DeclaredCollective> declared() const;

 private:
  bool is_adamw() const { return context_.one.training.optimizer == cases::OptimizerKind::kAdamW; }
  at::Tensor global_norm() const;
  void set_learning_rate(double rate);
  PlacedTensor placed(std::string_view prefix, const ParamInfo& param, const at::Tensor& tensor) const;
  void tap(std::string_view prefix, const LayerParams& tensors, Tapper& tapper) const;
  void add_moments(const ParamInfo& param, std::vector<PlacedTensor>& state) const;
  void make_moments(const ParamInfo& param, const std::function<bool(std::string_view name)>& has);

  LayerContext context_;
  Sharding sharding_;
  LayerParams masters_;      // fp32, leaves of the optimizer
  LayerParams gradients_;    // fp32, summed over microbatches
  std::unique_ptr<torch::optim::Optimizer> optimizer_;
  at::Tensor restored_steps_3_;   // of a load
};

}  // namespace moecheck::parallel_impls
