#include <chrono>
#include <cstdlib>

#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

#include "parallel_impls/comm/process_group_communicator.h"

namespace moecheck::parallel_impls {
namespace {

// The driver's deadline comes first and names the collective; this one only ends ranks that lost their driver.
constexpr std::chrono::minutes kGroupTimeout{10};

c10::intrusive_ptr<c10d::Backend> make_gloo(const c10::intrusive_ptr<c10d::Store>& store, int group_rank, int size) {
  auto options = c10d::ProcessGroupGloo::Options::create(kGroupTimeout);
  // As torch.distributed takes it; the ranks of one machine need no other than its own.
  const char* interface = std::getenv("GLOO_SOCKET_IFNAME");
  options->devices.push_back(interface != nullptr ? c10d::ProcessGroupGloo::createDeviceForInterface(interface)
                                                  : c10d::ProcessGroupGloo::createDeviceForHostname("127.0.0.1"));
  options->threads = 1;
  return c10::make_intrusive<c10d::ProcessGroupGloo>(store, group_rank, size, options);
}

}  // namespace

std::shared_ptr<Communicator> make_gloo_communicator(const model::Mesh& mesh, model::Dim rank,
                                                     const std::filesystem::path& rendezvous, CollectiveObserver observer) {
  return make_process_group_communicator(mesh, rank, rendezvous, std::move(observer), make_gloo);
}

}  // namespace moecheck::parallel_impls
