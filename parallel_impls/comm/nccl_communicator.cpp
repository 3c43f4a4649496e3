// Only in a CUDA build.
#include <chrono>

#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

#include "parallel_impls/comm/process_group_communicator.h"

namespace moecheck::parallel_impls {
namespace {

constexpr std::chrono::minutes kGroupTimeout{10};

c10::intrusive_ptr<c10d::Backend> make_nccl(const c10::intrusive_ptr<c10d::Store>& store, int group_rank, int size) {
  auto options = c10d::ProcessGroupNCCL::Options::create();
  options->timeout = kGroupTimeout;
  return c10::make_intrusive<c10d::ProcessGroupNCCL>(store, group_rank, size, options);
}

}  // namespace

std::shared_ptr<Communicator> make_nccl_communicator(const model::Mesh& mesh, model::Dim rank,
                                                     const std::filesystem::path& rendezvous, CollectiveObserver observer) {
  return make_process_group_communicator(mesh, rank, rendezvous, std::move(observer), make_nccl);
}

}  // namespace moecheck::parallel_impls
