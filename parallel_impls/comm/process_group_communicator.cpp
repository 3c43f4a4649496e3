#include "parallel_impls/comm/process_group_communicator.h"

#include <algorithm>
#include <map>
#include <numeric>

#include <fmt/ranges.h>

#include <torch/csrc/distributed/c10d/FileStore.hpp>

#include "parallel_impls/layer/tensor_bridge.h"

namespace moecheck::parallel_impls {
namespace {

using trace::Collective;

// Collectives of c10d want equal pieces: each is padded to the longest.
at::Tensor padded(const at::Tensor& rows, std::int64_t length) {
  if (rows.size(0) == length) return rows;
  std::vector<std::int64_t> shape = rows.sizes().vec();
  shape[0] = length - shape[0];
  return at::cat({rows, at::zeros(shape, rows.options())});
}

std::int64_t sum_of(const Rows& rows) { return std::accumulate(rows.begin(), rows.end(), std::int64_t{0}); }

class ProcessGroupCommunicator final : public Communicator {
 public:
  ProcessGroupCommunicator(const model::Mesh& mesh, model::Dim rank, const std::filesystem::path& rendezvous,
                           CollectiveObserver observer, BackendMaker make_backend)
      : mesh_(mesh), rank_(rank), rendezvous_(rendezvous), observer_(std::move(observer)), make_backend_(std::move(make_backend)) {}

  model::Dim rank() const override { return rank_; }
  const model::Mesh& mesh() const override { return mesh_; }
  std::vector<Collective> take_log() override { return std::exchange(log_, {}); }

  void all_reduce_sum(at::Tensor& tensor, std::string_view dims, std::string_view site) override {
    if (group_name(mesh_, dims).empty() || tensor.numel() == 0) return;
    run({.kind = "all_reduce", .reduce_op = "sum"}, tensor, dims, site, [&](c10d::Backend& group) {
      std::vector<at::Tensor> tensors = {tensor};
      return group.allreduce(tensors, c10d::AllreduceOptions{});
    });
  }

  void broadcast(at::Tensor& tensor, model::Dim source, std::string_view dims, std::string_view site) override {
    if (group_name(mesh_, dims).empty() || tensor.numel() == 0) return;
    run({.kind = "broadcast"}, tensor, dims, site, [&](c10d::Backend& group) {
      c10d::BroadcastOptions options;
      options.rootRank = source;
      std::vector<at::Tensor> tensors = {tensor};
      return group.broadcast(tensors, options);
    });
  }

  at::Tensor all_gather(const at::Tensor& local, const Rows& rows, std::string_view dims, std::string_view site) override {
    const std::int64_t longest = std::ranges::max(rows);
    if (group_name(mesh_, dims).empty() || longest == 0) return local;
    at::Tensor mine = padded(local, longest).contiguous();
    std::vector<std::int64_t> shape = mine.sizes().vec();
    shape[0] *= static_cast<std::int64_t>(rows.size());
    at::Tensor all = at::empty(shape, mine.options());
    run({.kind = "all_gather"}, mine, dims, site, [&](c10d::Backend& group) { return group._allgather_base(all, mine); });
    std::vector<at::Tensor> pieces;
    for (std::size_t c = 0; c < rows.size(); ++c) pieces.push_back(all.narrow(0, static_cast<std::int64_t>(c) * longest, rows[c]));
    return at::cat(pieces);
  }

  at::Tensor reduce_scatter_sum(const at::Tensor& whole, const Rows& rows, std::string_view dims, std::string_view site) override {
    const std::int64_t longest = std::ranges::max(rows);
    if (group_name(mesh_, dims).empty() || longest == 0) return whole;
    std::vector<at::Tensor> pieces;
    std::int64_t first = 0;
    for (const std::int64_t count : rows) {
      pieces.push_back(padded(whole.narrow(0, first, count), longest));
      first += count;
    }
    at::Tensor parts = at::cat(pieces).contiguous();
    std::vector<std::int64_t> shape = parts.sizes().vec();
    shape[0] = longest;
    at::Tensor mine = at::empty(shape, parts.options());
    run({.kind = "reduce_scatter", .reduce_op = "sum"}, parts, dims, site,
        [&](c10d::Backend& group) { return group._reduce_scatter_base(mine, parts); });
    return mine.narrow(0, 0, rows[static_cast<std::size_t>(coordinate(dims))]).contiguous();
  }

  at::Tensor all_to_all(const at::Tensor& rows, const Rows& send, const Rows& receive, std::string_view dims,
                        std::string_view site) override {
    if (group_name(mesh_, dims).empty()) return rows;
    at::Tensor mine = rows.contiguous();
    std::vector<std::int64_t> shape = mine.sizes().vec();
    shape[0] = sum_of(receive);
    at::Tensor received = at::empty(shape, mine.options());
    run({.kind = "all_to_all", .send_splits = send, .recv_splits = receive}, mine, dims, site, [&](c10d::Backend& group) {
      Rows out = receive, in = send;
      return group.alltoall_base(received, mine, out, in);
    });
    return received;
  }

 private:
  struct Group {
    c10::intrusive_ptr<c10d::Backend> backend;
    std::int64_t sequence = 0;
  };

  // Made at the first use; waits for the other members.
  void make_backend_of(const std::string& name, Group& group) {
    if (group.backend != nullptr) return;
    const std::vector<model::Dim> members = mesh_.group(rank_, name);
    const int size = static_cast<int>(members.size());
    const std::string file = fmt::format("{}-{}", name, fmt::join(members, "-"));
    group.backend = make_backend_(c10::make_intrusive<c10d::FileStore>((rendezvous_ / file).string(), size),
                                  static_cast<int>(mesh_.coordinate(rank_, name)), size);
  }

  template <typename Start>
  void run(Collective what, const at::Tensor& in, std::string_view dims, std::string_view site, Start start) {
    what.group = group_name(mesh_, dims);
    Group& group = groups_[what.group];
    what.sequence = ++group.sequence;
    what.dtype = std::string(base::knob_name(from_torch(in.scalar_type())));
    what.count = in.numel();
    what.bytes = in.numel() * static_cast<std::int64_t>(in.element_size());
    what.site = site;
    log_.push_back(what);
    observer_({true, what});
    make_backend_of(what.group, group);
    start(*group.backend)->wait();
    observer_({false, std::move(what)});
  }

  model::Mesh mesh_;
  model::Dim rank_;
  std::filesystem::path rendezvous_;
  CollectiveObserver observer_;
  BackendMaker make_backend_;
  std::map<std::string, Group> groups_;
  std::vector<Collective> log_;
};

}  // namespace

std::string group_name(const model::Mesh& mesh, std::string_view dims) {
  std::string name;
  while (true) {
    const auto comma = dims.find(',');
    const std::string_view dim = dims.substr(0, comma);
    if (mesh.size(dim) > 1) name += (name.empty() ? "" : ",") + std::string(dim);
    if (comma == std::string_view::npos) return name;
    dims.remove_prefix(comma + 1);
  }
}

std::shared_ptr<Communicator> make_process_group_communicator(const model::Mesh& mesh, model::Dim rank,
                                                              const std::filesystem::path& rendezvous, CollectiveObserver observer,
                                                              const BackendMaker& make_backend) {
  return std::make_shared<ProcessGroupCommunicator>(mesh, rank, rendezvous, std::move(observer), make_backend);
}

}  // namespace moecheck::parallel_impls
