// The layer of all in-tree implementations: router, dispatcher, local experts, optimizer. They differ in their parallel plan and
// in their token dispatcher.
#pragma once

#include "parallel_impls/layer/dispatcher.h"

namespace moecheck::parallel_impls {

// plan: what is sharded.
// Errors: Unsupported for an unknown backend, sizes that the mesh does not divide or that the grouped GEMM's alignment forbids.
std::unique_ptr<Layer> make_moe_layer(LayerContext context, const Plan& plan, std::unique_ptr<TokenDispatcher> dispatcher);


}  // namespace moecheck::parallel_impls
