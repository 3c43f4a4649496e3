// Activation checkpointing of the experts: the forward keeps its inputs only and is computed again in the backward
// (Chen et al., arXiv 1604.06174).
#pragma once

#include <memory>

#include "parallel_impls/layer/seams.h"

namespace moecheck::parallel_impls {

// The result's pieces hold the forward's values; after a backward *recomputed holds those of the second forward, with gradients.
ExpertsOutput forward_with_recomputation(const ExpertsBackend& backend, const ExpertsInput& in, const std::shared_ptr<ExpertsOutput>& recomputed);

// Autograd keeps gradients of leaves only, unless asked.
void retain_gradients(ExpertsOutput& out);

}  // namespace moecheck::parallel_impls
