// Collectives that autograd passes through, with their declared backward.
#pragma once

#include <memory>

#include "parallel_impls/comm/communicator.h"

namespace moecheck::parallel_impls {

// Forward: the identity, a replicated tensor enters a sharded computation. Backward: the ranks' gradients are partial sums;
// they are all-reduced. (The conjugate pair f and g of Megatron-LM, arXiv 1909.08053, section 3.)
at::Tensor copy_to_group(const at::Tensor& tensor, std::shared_ptr<Communicator> comm, const std::string& dim, const std::string& site);

// Forward: the all-reduced sum of the ranks' tensors. Backward: the identity, every rank holds the whole gradient.
at::Tensor reduce_from_group(const at::Tensor& tensor, std::shared_ptr<Communicator> comm, const std::string& dim, const std::string& site);

}  // namespace moecheck::parallel_impls
