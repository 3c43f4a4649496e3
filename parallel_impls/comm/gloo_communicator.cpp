#include <chrono>
#include <map>

#include <fmt/ranges.h>

#include <torch/csrc/distributed/c10d/FileStore.hpp>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

#include "parallel_impls/comm/communicator.h"

namespace moecheck::parallel_impls {
namespace {

// The driver's deadline comes first and names the collective; this one only ends ranks that lost their driver.
constexpr std::chrono::minutes kGroupTimeout{10};

class GlooCommunicator final : public Communicator {
 public:
  GlooCommunicator(const model::Mesh& mesh, model::Dim rank, const std::filesystem::path& rendezvous, CollectiveObserver observer)
      : mesh_(mesh), rank_(rank), observer_(std::move(observer)) {
    for (const model::MeshDim& dim : mesh.dims())
      if (dim.size > 1) groups_[dim.name] = make_group(dim.name, rendezvous);
  }

  model::Dim rank() const override { return rank_; }
  const model::Mesh& mesh() const override { return mesh_; }

  void all_reduce_sum(at::Tensor& tensor, std::string_view dim, std::string_view site) override {
    run("all_reduce", tensor, dim, site, [](c10d::Backend& group, std::vector<at::Tensor>& tensors) {
      return group.allreduce(tensors, c10d::AllreduceOptions{});
    });
  }

  void broadcast(at::Tensor& tensor, model::Dim source, std::string_view dim, std::string_view site) override {
    run("broadcast", tensor, dim, site, [&](c10d::Backend& group, std::vector<at::Tensor>& tensors) {
      c10d::BroadcastOptions options;
      options.rootRank = source;
      return group.broadcast(tensors, options);
    });
  }

 private:
  c10::intrusive_ptr<c10d::Backend> make_group(const std::string& dim, const std::filesystem::path& rendezvous) {
    const std::vector<model::Dim> members = mesh_.group(rank_, dim);
    const std::string name = fmt::format("{}-{}", dim, fmt::join(members, "-"));
    auto store = c10::make_intrusive<c10d::FileStore>((rendezvous / name).string(), static_cast<int>(members.size()));
    auto options = c10d::ProcessGroupGloo::Options::create(kGroupTimeout);
    options->devices.push_back(c10d::ProcessGroupGloo::createDeviceForHostname("127.0.0.1"));
    options->threads = 1;
    return c10::make_intrusive<c10d::ProcessGroupGloo>(store, static_cast<int>(mesh_.coordinate(rank_, dim)),
                                                       static_cast<int>(members.size()), options);
  }

  template <typename Start>
  void run(const char* kind, at::Tensor& tensor, std::string_view dim, std::string_view site, Start start) {
    const auto group = groups_.find(std::string(dim));
    if (group == groups_.end() || tensor.numel() == 0) return;
    subject::CollectiveEvent event{true, kind, std::string(dim), ++sequence_, std::string(site)};
    observer_(event);
    std::vector<at::Tensor> tensors = {tensor};
    start(*group->second, tensors)->wait();
    event.is_enter = false;
    observer_(event);
  }

  model::Mesh mesh_;
  model::Dim rank_;
  CollectiveObserver observer_;
  std::map<std::string, c10::intrusive_ptr<c10d::Backend>> groups_;
  std::int64_t sequence_ = 0;
};

}  // namespace

std::shared_ptr<Communicator> make_gloo_communicator(const model::Mesh& mesh, model::Dim rank,
                                                     const std::filesystem::path& rendezvous, CollectiveObserver observer) {
  return std::make_shared<GlooCommunicator>(mesh, rank, rendezvous, std::move(observer));
}

}  // namespace moecheck::parallel_impls
