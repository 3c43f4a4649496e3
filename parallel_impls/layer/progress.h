// How far a training has come: what goes on where it was saved, beside weights and optimizer.
#pragma once

#include "parallel_impls/layer/layer.h"

namespace moecheck::parallel_impls {

class Progress {
 public:
  explicit Progress(const LayerContext& context);

  model::Dim batches() const;       // taken so far: the next one's number
  double learning_rate() const;     // of the next step
  void take_batch(const at::Tensor& ids_TK);   // global ids of the rank's tokens
  // Ranks: every rank of the mesh. Sums the counts of the step over the token shards.
  void end_step(Communicator& comm);
  std::vector<trace::DeclaredCollective> declared() const;   // of end_step

  // Sharing the storage.
  std::vector<PlacedTensor> state() const;

 private:
  const cases::Case& one_;
  at::Tensor batches_1_;   // int64
  at::Tensor lr_1_;        // fp64
  at::Tensor tokens_E_;    // int64, over all ranks
  at::Tensor counted_E_;   // int64, of this rank since the last step
};

}  // namespace moecheck::parallel_impls
