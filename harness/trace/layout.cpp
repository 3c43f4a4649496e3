#include "harness/trace/layout.h"

#include <algorithm>
#include <numeric>

#include "harness/trace/tap_points.h"

namespace moecheck::trace {
namespace {

using model::Cut;
using model::Problem;

constexpr std::string_view kGateUp = "param/experts/gate_up_EGD";
constexpr std::string_view kDown = "param/experts/down_EDF";
constexpr std::string_view kAttention = "param/attention/w_DD";
constexpr std::string_view kRouter = "param/router/w_ED";

std::optional<Dim> size_of(std::string_view name, const Problem& problem, Dim rank, const ShownSizes& sizes) {
  const model::ModelSpec& m = problem.model;
  const Dim tp = problem.cuts_experts() ? problem.mesh.size("tp") : 1;
  if (name == "T") return problem.num_tokens(rank);
  if (name == "S") return sizes.slot_tokens;
  if (name == "D") return m.d_model;
  if (name == "E") return m.num_experts;
  if (name == "e") return local_experts(problem, rank).count;
  if (name == "K") return m.top_k;
  if (name == "R") return sizes.rows;
  if (name == "N") return sizes.combined;
  if (name == "G") return m.gate_up_rows() / tp;
  if (name == "F") return m.d_ff / tp;
  if (name == "3") return 3;
  if (name == "1") return 1;
  return std::nullopt;
}

bool is_expert_param(std::string_view parameter) { return parameter == kGateUp || parameter == kDown; }

Dim rows_of(const RankTrace& rank, std::string_view tap, std::size_t rank_of_tensor) {
  const base::HostTensor* tensor = rank.tensor(tap);
  return tensor != nullptr && tensor->shape().size() == rank_of_tensor ? tensor->dim(0) : -1;
}

}  // namespace

LocalExperts local_experts(const Problem& problem, Dim rank) {
  const Dim shards = problem.mesh.size(problem.expert_dims());
  const Dim count = (problem.model.num_experts + shards - 1) / shards;
  const Dim first = std::min(problem.mesh.coordinate(rank, problem.expert_dims()) * count, problem.model.num_experts);
  return {first, std::min(count, problem.model.num_experts - first)};
}

std::string_view parameter_of(std::string_view tap) {
  for (const std::string_view parameter : {kGateUp, kDown, kAttention, kRouter}) {
    const std::string_view tail = parameter.substr(std::string_view("param").size());
    const bool is_of_params = tap.starts_with("grad/") || tap.starts_with("optim/");
    if (is_of_params && tap.ends_with(tail)) return parameter;
  }
  return tap;
}

std::vector<Cut> compute_cuts(const Problem& problem, std::string_view of) {
  const std::string_view tap = parameter_of(of);
  std::vector<Cut> cuts;
  if (is_expert_param(tap) && problem.mesh.size(problem.expert_dims()) > 1) cuts.push_back({problem.expert_dims(), model::shard(0)});
  if (problem.mesh.size("tp") == 1) return cuts;
  // gate_up packs gate, then up: a rank takes a piece of each. The others are cut along the last dim (row-wise).
  if (tap == kGateUp && problem.cuts_experts()) cuts.push_back({"tp", model::strided_shard(1, 2)});
  if (tap == kDown && problem.cuts_experts()) cuts.push_back({"tp", model::shard(2)});
  if (tap == kAttention) cuts.push_back({"tp", model::shard(1)});
  return cuts;
}

std::vector<Cut> declared_cuts(const Problem& problem, std::string_view of) {
  std::vector<Cut> cuts = compute_cuts(problem, of);
  if (problem.mesh.size("fsdp") == 1) return cuts;
  if (is_expert_param(parameter_of(of))) {
    cuts.push_back({"fsdp", model::shard(1)});
  } else {
    cuts.push_back({problem.shards_tokens("ep") ? "fsdp,ep" : "fsdp", model::shard(0)});
  }
  return cuts;
}

std::vector<Dim> declared_indices(const Problem& problem, std::string_view tap, Dim rank, Dim dim) {
  const Dim size = global_param_shape(problem.model, tap).at(static_cast<std::size_t>(dim));
  return model::held_indices(declared_cuts(problem, tap), size, dim, problem.mesh, rank);
}

base::Shape global_param_shape(const model::ModelSpec& m, std::string_view of) {
  const std::string_view tap = parameter_of(of);
  if (tap == kGateUp) return {m.num_experts, m.gate_up_rows(), m.d_model};
  if (tap == kDown) return {m.num_experts, m.d_model, m.d_ff};
  if (tap == kAttention) return {m.d_model, m.d_model};
  MOECHECK_REQUIRE(tap == kRouter, std::string(of));
  return {m.num_experts, m.d_model};
}

ShownSizes shown_sizes(const Problem& problem, const RankTrace& rank) {
  const Dim gathered = rows_of(rank, "dispatch/tokens_S", 1);
  return {rows_of(rank, "dispatch/rows_R3", 2), gathered >= 0 ? gathered : problem.num_tokens(rank.rank), rows_of(rank, "combine/rows_N3", 2)};
}

std::optional<base::Shape> declared_shape(const Problem& problem, std::string_view tap, Dim rank, const ShownSizes& sizes) {
  const TapPoint* point = find_tap(tap);
  if (point == nullptr) return std::nullopt;
  if (point->kind == TapKind::kParam)
    return model::held_shape(declared_cuts(problem, tap), global_param_shape(problem.model, tap), problem.mesh, rank);
  base::Shape shape;
  std::string_view dims = point->dims;
  while (!dims.empty()) {
    const auto blank = std::min(dims.find(' '), dims.size());
    const auto size = size_of(dims.substr(0, blank), problem, rank, sizes);
    MOECHECK_REQUIRE(size.has_value(), std::string(point->dims));
    shape.push_back(*size);
    dims.remove_prefix(std::min(blank + 1, dims.size()));
  }
  return shape;
}

std::vector<Dim> slot_tokens(const Problem& problem, const RankTrace& rank) {
  std::vector<Dim> tokens;
  const base::HostTensor* shown = rank.tensor("dispatch/tokens_S");
  if (shown != nullptr && shown->shape().size() == 1 && !base::is_floating(shown->dtype())) {
    for (Dim i = 0; i < shown->numel(); ++i) tokens.push_back(shown->int_at(i));
    return tokens;
  }
  tokens.resize(static_cast<std::size_t>(problem.num_tokens(rank.rank)));
  std::iota(tokens.begin(), tokens.end(), problem.first_token(rank.rank));
  return tokens;
}

std::vector<Dim> token_group(const Problem& problem, Dim rank) {
  std::vector<Dim> group;
  const std::string dims = problem.token_dims_text();
  for (Dim other = 0; other < problem.mesh.world_size(); ++other)
    if (problem.mesh.coordinate(other, dims) == problem.mesh.coordinate(rank, dims)) group.push_back(other);
  return group;
}

std::vector<Dim> replica_group(const Problem& problem, std::string_view tap, Dim rank) {
  const auto cuts = declared_cuts(problem, tap);
  std::vector<Dim> group;
  for (Dim other = 0; other < problem.mesh.world_size(); ++other) {
    const bool same_shard = std::ranges::all_of(cuts, [&](const Cut& cut) {
      return problem.mesh.coordinate(other, cut.mesh_dim) == problem.mesh.coordinate(rank, cut.mesh_dim);
    });
    if (same_shard) group.push_back(other);
  }
  return group;
}

}  // namespace moecheck::trace
