#include "parallel_impls/layer/progress.h"

#include "parallel_impls/layer/tensor_bridge.h"

namespace moecheck::parallel_impls {

Progress::Progress(const LayerContext& context)
    : one_(context.one), batches_1_(at::zeros({1}, at::kLong)), lr_1_(at::full({1}, one_.training.learning_rate, at::kDouble)),
      tokens_E_(at::zeros({one_.problem.model.num_experts}, at::TensorOptions(at::kLong).device(context.device))), counted_E_(at::zeros_like(tokens_E_)) {}

model::Dim Progress::batches() const { return batches_1_.item<model::Dim>(); }

double Progress::learning_rate() const { return lr_1_.item<double>(); }

void Progress::take_batch(const at::Tensor& ids_TK) {
  batches_1_ += 1;
  counted_E_ += at::bincount(ids_TK.flatten(), {}, counted_E_.size(0));
}

void Progress::end_step(Communicator& comm) {
  comm.all_reduce_sum(counted_E_, one_.problem.token_dims_text(), "state/tokens_E");
  tokens_E_ += counted_E_;
  counted_E_.zero_();
  lr_1_ *= one_.training.lr_decay;
}

std::vector<trace::DeclaredCollective> Progress::declared() const {
  const std::string group = group_name(one_.problem.mesh, one_.problem.token_dims_text());
  if (group.empty()) return {};
  return {{"all_reduce", group, "state/tokens_E", 1, counted_E_.numel() * static_cast<model::Dim>(counted_E_.element_size())}};
}

std::vector<PlacedTensor> Progress::state() const {
  std::vector<PlacedTensor> state;
  for (const auto& [name, tensor] : {std::pair{"state/batches_1", batches_1_}, std::pair{"state/lr_1", lr_1_}, std::pair{"state/tokens_E", tokens_E_}})
    state.push_back({name, tensor, keep_all(base::Shape(tensor.sizes().begin(), tensor.sizes().end())), {}, base::Shape(tensor.sizes().begin(), tensor.sizes().end())});
  return state;
}

}  // namespace moecheck::parallel_impls
