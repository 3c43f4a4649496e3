// All traffic between ranks. Implementations never call a process group themselves, so that every collective can be
// observed, logged and replaced by a fault.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <ATen/ATen.h>

#include "harness/model/mesh.h"
#include "harness/subject/protocol.h"

namespace moecheck::parallel_impls {

using Rows = std::vector<std::int64_t>;   // a number of rows for each rank of a group, in order of their coordinate

// Collective over the ranks of one or several mesh dimensions ("ep", "ep,tp"); every rank of that group calls it, in the same
// order. Dimensions that the mesh does not have make no difference; over a group of one nothing is sent. `site` names the stage.
// Tensors are contiguous, rows are dim 0. Where all ranks know that nothing is to be sent (empty tensors of one shape), nothing is.
// Errors: c10::Error if a peer left or the group's timeout passed.
class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual model::Dim rank() const = 0;
  virtual const model::Mesh& mesh() const = 0;
  model::Dim coordinate(std::string_view dims) const { return mesh().coordinate(rank(), dims); }

  // In place.
  virtual void all_reduce_sum(at::Tensor& tensor, std::string_view dims, std::string_view site) = 0;
  // In place, from the rank with coordinate `source` in `dims`.
  virtual void broadcast(at::Tensor& tensor, model::Dim source, std::string_view dims, std::string_view site) = 0;
  // The rows of all ranks, one after the other; rows[c] of coordinate c, which all ranks know.
  virtual at::Tensor all_gather(const at::Tensor& local, const Rows& rows, std::string_view dims, std::string_view site) = 0;
  // The sum over ranks of `whole`, of which a rank gets its rows[c].
  virtual at::Tensor reduce_scatter_sum(const at::Tensor& whole, const Rows& rows, std::string_view dims, std::string_view site) = 0;
  // Rows to and from each rank. Sent also where this rank has none: the others may have.
  virtual at::Tensor all_to_all(const at::Tensor& rows, const Rows& send, const Rows& receive, std::string_view dims,
                                std::string_view site) = 0;

  // Everything that was sent since the last call.
  virtual std::vector<trace::Collective> take_log() = 0;
};

using CollectiveObserver = std::function<void(const subject::CollectiveEvent&)>;

// "ep" for "ep,tp" where the mesh has no tp: the dimensions that count, "" for none.
std::string group_name(const model::Mesh& mesh, std::string_view dims);

// Gloo over loopback; the groups find each other through a FileStore in `rendezvous`.
// Ranks: collective over the whole mesh. Errors: c10::Error if a peer does not come.
std::shared_ptr<Communicator> make_gloo_communicator(const model::Mesh& mesh, model::Dim rank,
                                                     const std::filesystem::path& rendezvous, CollectiveObserver observer);

// NCCL, for tensors on a GPU; only in a build with MOECHECK_CUDA.
std::shared_ptr<Communicator> make_nccl_communicator(const model::Mesh& mesh, model::Dim rank,
                                                     const std::filesystem::path& rendezvous, CollectiveObserver observer);

}  // namespace moecheck::parallel_impls
