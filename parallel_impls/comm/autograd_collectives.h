// Collectives that autograd passes through, with their declared backward. Sites name the stages of forward and backward.
#pragma once

#include <memory>

#include "parallel_impls/comm/communicator.h"

namespace moecheck::parallel_impls {

// The group that a tensor meets, and where.
struct Meeting {
  std::shared_ptr<Communicator> comm;
  std::string dims;
  std::string site;            // of the forward's collective, if it has one
  std::string backward_site;
};

// Forward: the identity, a replicated tensor enters a sharded computation. Backward: the ranks' gradients are partial sums;
// they are all-reduced. (The conjugate pair f and g of Megatron-LM, arXiv 1909.08053, section 3.)
at::Tensor copy_to_group(const at::Tensor& tensor, const Meeting& where);

// Forward: the all-reduced sum of the ranks' tensors. Backward: the identity, every rank holds the whole gradient.
at::Tensor reduce_from_group(const at::Tensor& tensor, const Meeting& where);

// Forward: the rows of all ranks, rows[c] of coordinate c. Backward: their gradients are partial sums, reduce-scattered.
// (g and g-bar of sequence parallelism, Korthikanti et al., arXiv 2205.05198, section 4.2.2.)
at::Tensor gather_from_group(const at::Tensor& tensor, const Rows& rows, const Meeting& where);

// Forward: the rank's rows of the summed tensor, reduce-scattered. Backward: the rows of all ranks are gathered.
at::Tensor reduce_scatter_to_group(const at::Tensor& tensor, const Rows& rows, const Meeting& where);

// Forward: rows to and from each rank. Backward: the gradients the way back.
at::Tensor exchange(const at::Tensor& rows, const Rows& send, const Rows& receive, const Meeting& where);

}  // namespace moecheck::parallel_impls
