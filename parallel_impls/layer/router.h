// The router as the frameworks compute it: logits in the model's dtype, softmax or sigmoid in fp32, scores cast back.
#pragma once

#include "harness/model/model_spec.h"
#include "parallel_impls/layer/seams.h"
#include "parallel_impls/layer/tapper.h"

namespace moecheck::parallel_impls {

struct RouterOutput {
  at::Tensor logits_TE;
  RoutedSlots slots;   // ids are global
};

// Taps router/logits_TE, router/scores_TK, router/ids_TK.
RouterOutput route(const at::Tensor& x_TD, const at::Tensor& router_ED, const model::ModelSpec& spec, const Seams& seams,
                  Tapper& tapper);

}  // namespace moecheck::parallel_impls
