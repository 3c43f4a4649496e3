// The layer of implementations in which every rank of the group sees all tokens of its data-parallel rank, computes what its
// weights allow, and the partial sums are all-reduced: expert parallelism as transformers does it, and tensor parallelism.
#pragma once

#include "parallel_impls/loaders/hf_loader.h"

namespace moecheck::parallel_impls {

// plan: what is sharded. group_dim: "ep" or "tp", where the partial sums are reduced.
// Errors: Unsupported for an unknown backend or sizes that the grouped GEMM's alignment forbids.
std::unique_ptr<Layer> make_replicated_tokens_layer(LayerContext context, const Plan& plan, std::string group_dim);

}  // namespace moecheck::parallel_impls
