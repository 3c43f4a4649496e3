#include "harness/check/layout.h"

#include <algorithm>
#include <numeric>

#include "harness/trace/tap_points.h"

namespace moecheck::check {
namespace {

constexpr std::string_view kGateUp = "param/experts/gate_up_EGD";
constexpr std::string_view kDown = "param/experts/down_EDF";
constexpr std::string_view kAttention = "param/attention/w_DD";
constexpr std::string_view kRouter = "param/router/w_ED";

// A gradient lies as its parameter does.
std::string_view parameter_of(std::string_view tap) {
  if (tap == "grad/experts/gate_up_EGD") return kGateUp;
  if (tap == "grad/experts/down_EDF") return kDown;
  if (tap == "grad/router/w_ED") return kRouter;
  return tap;
}

std::optional<Dim> size_of(std::string_view name, const model::Problem& problem, Dim rank, Dim num_rows) {
  const model::ModelSpec& m = problem.model;
  const Dim tp = problem.mesh.size("tp");
  if (name == "T") return problem.num_tokens(rank);
  if (name == "D") return m.d_model;
  if (name == "E") return m.num_experts;
  if (name == "e") return local_experts(problem, rank).count;
  if (name == "K") return m.top_k;
  if (name == "R") return num_rows;
  if (name == "G") return m.gate_up_rows() / tp;
  if (name == "F") return m.d_ff / tp;
  if (name == "3") return 3;
  return std::nullopt;
}

}  // namespace

LocalExperts local_experts(const model::Problem& problem, Dim rank) {
  const Dim count = problem.model.num_experts / problem.mesh.size("ep");
  return {problem.mesh.coordinate(rank, "ep") * count, count};
}

std::vector<DeclaredCut> declared_cuts(const model::Problem& problem, std::string_view of) {
  const std::string_view tap = parameter_of(of);
  const bool is_experts = tap == kGateUp || tap == kDown;
  std::vector<DeclaredCut> cuts;
  if (is_experts && problem.mesh.size("ep") > 1) cuts.push_back({"ep", model::shard(0)});
  if (problem.mesh.size("tp") > 1) {
    // gate_up packs gate, then up: a rank takes a piece of each. The others are cut along the last dim (row-wise).
    if (tap == kGateUp) cuts.push_back({"tp", model::strided_shard(1, 2)});
    if (tap == kDown) cuts.push_back({"tp", model::shard(2)});
    if (tap == kAttention) cuts.push_back({"tp", model::shard(1)});
  }
  return cuts;
}

std::vector<Dim> declared_indices(const model::Problem& problem, std::string_view tap, Dim rank, Dim dim) {
  const Dim size = global_param_shape(problem.model, tap).at(static_cast<std::size_t>(dim));
  for (const DeclaredCut& cut : declared_cuts(problem, tap))
    if (cut.placement.dim == dim)
      return model::local_indices(cut.placement, size, problem.mesh.coordinate(rank, cut.mesh_dim), problem.mesh.size(cut.mesh_dim));
  std::vector<Dim> all(static_cast<std::size_t>(size));
  std::iota(all.begin(), all.end(), Dim{0});
  return all;
}

base::Shape global_param_shape(const model::ModelSpec& m, std::string_view of) {
  const std::string_view tap = parameter_of(of);
  if (tap == kGateUp) return {m.num_experts, m.gate_up_rows(), m.d_model};
  if (tap == kDown) return {m.num_experts, m.d_model, m.d_ff};
  if (tap == kAttention) return {m.d_model, m.d_model};
  MOECHECK_REQUIRE(tap == kRouter, std::string(of));
  return {m.num_experts, m.d_model};
}

std::optional<base::Shape> declared_shape(const model::Problem& problem, std::string_view tap, Dim rank, Dim num_rows) {
  const trace::TapPoint* point = trace::find_tap(tap);
  if (point == nullptr) return std::nullopt;
  if (point->kind == trace::TapKind::kParam) {
    base::Shape shape = global_param_shape(problem.model, tap);
    for (const DeclaredCut& cut : declared_cuts(problem, tap))
      shape = model::local_shape(cut.placement, shape, problem.mesh.size(cut.mesh_dim));
    return shape;
  }
  base::Shape shape;
  std::string_view dims = point->dims;
  while (!dims.empty()) {
    const auto blank = std::min(dims.find(' '), dims.size());
    const auto size = size_of(dims.substr(0, blank), problem, rank, num_rows);
    MOECHECK_REQUIRE(size.has_value(), std::string(point->dims));
    shape.push_back(*size);
    dims.remove_prefix(std::min(blank + 1, dims.size()));
  }
  return shape;
}

std::vector<Dim> token_group(const model::Mesh& mesh, Dim rank) {
  std::vector<Dim> group;
  for (Dim other = 0; other < mesh.world_size(); ++other)
    if (mesh.coordinate(other, "dp") == mesh.coordinate(rank, "dp")) group.push_back(other);
  return group;
}

std::vector<Dim> replica_group(const model::Problem& problem, std::string_view tap, Dim rank) {
  const auto cuts = declared_cuts(problem, tap);
  std::vector<Dim> group;
  for (Dim other = 0; other < problem.mesh.world_size(); ++other) {
    const bool same_shard = std::ranges::all_of(cuts, [&](const DeclaredCut& cut) {
      return problem.mesh.coordinate(other, cut.mesh_dim) == problem.mesh.coordinate(rank, cut.mesh_dim);
    });
    if (same_shard) group.push_back(other);
  }
  return group;
}

}  // namespace moecheck::check
