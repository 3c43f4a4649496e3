// A Communicator over any c10d backend, one group for each combination of mesh dimensions, made at its first use.
#pragma once

#include <functional>

#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include "parallel_impls/comm/communicator.h"

namespace moecheck::parallel_impls {

// Makes one rank's end of a group of `size` ranks that meet in `store`.
using BackendMaker =
    std::function<c10::intrusive_ptr<c10d::Backend>(const c10::intrusive_ptr<c10d::Store>& store, int group_rank, int size)>;

std::shared_ptr<Communicator> make_process_group_communicator(const model::Mesh& mesh, model::Dim rank,
                                                              const std::filesystem::path& rendezvous, CollectiveObserver observer,
                                                              const BackendMaker& make_backend);

}  // namespace moecheck::parallel_impls
