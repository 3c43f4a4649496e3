// All traffic between ranks. Implementations never call a process group themselves, so that every collective can be
// observed and replaced by a fault.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include <ATen/ATen.h>

#include "harness/model/mesh.h"
#include "harness/subject/protocol.h"

namespace moecheck::parallel_impls {

// Collective over the ranks of one mesh dimension; every rank of that group calls it, in the same order.
// A dimension that the mesh does not have is a group of one: nothing is sent. Empty tensors are not sent either: all ranks
// of a group hold the same shape.
// Errors: c10::Error if a peer left or the group's timeout passed.
class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual model::Dim rank() const = 0;
  virtual const model::Mesh& mesh() const = 0;
  // In place. `site` names the stage, for whoever reads the log of a hang.
  virtual void all_reduce_sum(at::Tensor& tensor, std::string_view dim, std::string_view site) = 0;
  // In place, from the rank with coordinate `source` in `dim`.
  virtual void broadcast(at::Tensor& tensor, model::Dim source, std::string_view dim, std::string_view site) = 0;
};

using CollectiveObserver = std::function<void(const subject::CollectiveEvent&)>;

// Gloo over loopback; the groups find each other through a FileStore in `rendezvous`.
// Ranks: collective over the whole mesh. Errors: c10::Error if a peer does not come.
std::shared_ptr<Communicator> make_gloo_communicator(const model::Mesh& mesh, model::Dim rank,
                                                     const std::filesystem::path& rendezvous, CollectiveObserver observer);

// NCCL, for tensors on a GPU; only in a build with MOECHECK_CUDA.
std::shared_ptr<Communicator> make_nccl_communicator(const model::Mesh& mesh, model::Dim rank,
                                                     const std::filesystem::path& rendezvous, CollectiveObserver observer);

}  // namespace moecheck::parallel_impls
