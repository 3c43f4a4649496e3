#include "parallel_impls/layer/seams.h"

#include <algorithm>

#include "parallel_impls/comm/autograd_collectives.h"

namespace moecheck::parallel_impls {
namespace {

std::vector<ExpertsBackend>& backends() {
  static std::vector<ExpertsBackend> all;
  return all;
}

// Keeps (T, K): scores of experts that live elsewhere become 0, their ids the sentinel e.
RoutedSlots keep_shape_with_sentinels(const RoutedSlots& global, const LocalExperts& local) {
  const at::Tensor is_local = (global.ids_TK >= local.first).logical_and(global.ids_TK < local.first + local.count);
  return {global.scores_TK.masked_fill(is_local.logical_not(), 0.0),
          (global.ids_TK - local.first).masked_fill(is_local.logical_not(), local.count)};
}

}  // namespace

std::pair<model::Dim, model::Dim> contiguous_experts(model::Dim num_experts, const ShardContext& shard) {
  const model::Dim count = num_experts / shard.size;
  return {shard.coordinate * count, count};
}

Ranges gate_and_up_pieces(model::Dim packed_rows, const ShardContext& shard) {
  const model::Dim half = packed_rows / 2;
  const model::Dim piece = half / shard.size;
  return {{shard.coordinate * piece, piece}, {half + shard.coordinate * piece, piece}};
}

Seams sound_seams() {
  Seams seams;
  // A plan names what it changes; a parameter that it does not name stays replicated.
  seams.style_of = [](const Plan& plan, std::string_view parameter) {
    const auto is_it = [&](const PlanEntry& entry) { return entry.parameter == parameter; };
    return std::ranges::any_of(plan, is_it) ? find_style(plan, parameter) : Style::kReplicate;
  };
  seams.expert_range = contiguous_experts;
  seams.packed_rows = gate_and_up_pieces;
  seams.after_load = [](LayerParams&, Communicator&) {};
  seams.probabilities = [](const at::Tensor& logits_TE) { return at::softmax(logits_TE, -1, at::kFloat); };
  seams.shard_routing = keep_shape_with_sentinels;
  seams.find_backend = find_registered_backend;
  seams.enter_tokens = [](const at::Tensor& x_TD, const std::shared_ptr<Communicator>& comm, const std::string& dim) {
    return copy_to_group(x_TD, comm, dim, "grad/x_TD");
  };
  seams.enter_scores = [](const at::Tensor& scores_TK, const std::shared_ptr<Communicator>& comm, const std::string& dim) {
    return copy_to_group(scores_TK, comm, dim, "grad/scores_TK");
  };
  seams.combine = [](const at::Tensor& partial_TD, const std::shared_ptr<Communicator>& comm, const std::string& dim) {
    return reduce_from_group(partial_TD, comm, dim, "output/y_TD");
  };
  seams.sync_gradients = [](LayerParams& gradients, Communicator& comm) {
    for (at::Tensor* gradient : {&gradients.router_ED, &gradients.gate_up_EGD, &gradients.down_EDF})
      comm.all_reduce_sum(*gradient, "dp", "grad/param");
  };
  return seams;
}

const ExpertsBackend* find_registered_backend(std::string_view name) {
  const auto found = std::ranges::find(backends(), name, &ExpertsBackend::name);
  return found == backends().end() ? nullptr : &*found;
}

std::vector<std::string> backend_names() {
  std::vector<std::string> names;
  for (const ExpertsBackend& backend : backends()) names.push_back(backend.name);
  std::ranges::sort(names);
  return names;
}

bool register_backend(ExpertsBackend backend) {
  MOECHECK_REQUIRE(find_registered_backend(backend.name) == nullptr, backend.name);
  backends().push_back(std::move(backend));
  return true;
}

}  // namespace moecheck::parallel_impls
