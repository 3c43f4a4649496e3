#include "parallel_impls/comm/process_group_communicator.h"

#include <map>

#include <fmt/ranges.h>

#include <torch/csrc/distributed/c10d/FileStore.hpp>

namespace moecheck::parallel_impls {
namespace {

class ProcessGroupCommunicator final : public Communicator {
 public:
  ProcessGroupCommunicator(const model::Mesh& mesh, model::Dim rank, const std::filesystem::path& rendezvous,
                           CollectiveObserver observer, const BackendMaker& make_backend)
      : mesh_(mesh), rank_(rank), observer_(std::move(observer)) {
    for (const model::MeshDim& dim : mesh.dims())
      if (dim.size > 1) groups_[dim.name] = make_group(dim.name, rendezvous, make_backend);
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
  c10::intrusive_ptr<c10d::Backend> make_group(const std::string& dim, const std::filesystem::path& rendezvous,
                                               const BackendMaker& make_backend) const {
    const std::vector<model::Dim> members = mesh_.group(rank_, dim);
    const std::string name = fmt::format("{}-{}", dim, fmt::join(members, "-"));
    const int size = static_cast<int>(members.size());
    return make_backend(c10::make_intrusive<c10d::FileStore>((rendezvous / name).string(), size),
                        static_cast<int>(mesh_.coordinate(rank_, dim)), size);
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

std::shared_ptr<Communicator> make_process_group_communicator(const model::Mesh& mesh, model::Dim rank,
                                                              const std::filesystem::path& rendezvous, CollectiveObserver observer,
                                                              const BackendMaker& make_backend) {
  return std::make_shared<ProcessGroupCommunicator>(mesh, rank, rendezvous, std::move(observer), make_backend);
}

}  // namespace moecheck::parallel_impls
