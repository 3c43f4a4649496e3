#include "parallel_impls/layer/sharding.h"

#include <algorithm>
#include <numeric>

#include "harness/trace/layout.h"
#include "parallel_impls/layer/tensor_bridge.h"

namespace moecheck::parallel_impls {
namespace {

using model::Dim;

Dim size_of(const Ranges& ranges) {
  return std::accumulate(ranges.begin(), ranges.end(), Dim{0}, [](Dim sum, const auto& range) { return sum + range.second; });
}

// Pieces of ceil(size / n); the last ones may be smaller, or empty.
Ranges contiguous_piece(Dim size, const ShardContext& shard) {
  const Dim piece = (size + shard.size - 1) / shard.size;
  const Dim first = std::min(size, shard.coordinate * piece);
  return {{first, std::min(piece, size - first)}};
}

// `inner` counts among the indices that `outer` keeps.
Ranges nested(const Ranges& outer, const Ranges& inner) {
  Ranges result;
  for (const auto& [first, count] : inner) {
    Dim begin = 0;
    for (const auto& [at, length] : outer) {
      const Dim from = std::max(first, begin), to = std::min(first + count, begin + length);
      if (from < to) result.emplace_back(at + from - begin, to - from);
      begin += length;
    }
  }
  return result;
}

class Sharder {
 public:
  Sharder(const Plan& plan, const LayerContext& context) : plan_(context.seams.plan(plan)), context_(context), problem_(context.one.problem) {}

  Sharding shard() {
    for (const ParamInfo& param : kAllParams) shard(param);
    sharding_.plan = applied_plan();
    return std::move(sharding_);
  }

 private:
  ShardContext shard_of(const model::Cut& cut) const {
    return {context_.comm->coordinate(cut.mesh_dim), context_.comm->mesh().size(cut.mesh_dim), context_.local_rank};
  }

  void shard(const ParamInfo& param) {
    Kept kept = keep_all(global_shape(param));
    if (param.name == kGateUp) sharding_.experts = {0, problem_.model.num_experts};
    for (const Style style : context_.seams.styles_of(plan_, param.name)) {
      const auto cut = applied_cut(style, param.num_dims, problem_);
      if (!cut) continue;
      sharding_.cuts[std::string(param.name)].push_back(*cut);
      Ranges& ranges = kept[static_cast<std::size_t>(cut->placement.dim)];
      ranges = style == Style::kGroupedGemm ? kept_experts(param, shard_of(*cut)) : nested(ranges, piece_of(style, size_of(ranges), shard_of(*cut)));
    }
    sharding_.kept.emplace(param.name, std::move(kept));
  }

  Ranges kept_experts(const ParamInfo& param, const ShardContext& shard) {
    const std::pair<Dim, Dim> range = context_.seams.expert_range(problem_.model.num_experts, shard);
    // The mesh decides which experts a rank answers for in the forward, whatever it has loaded.
    if (param.name == kGateUp) sharding_.experts = {shard.coordinate * range.second, range.second};
    return {range};
  }

  Ranges piece_of(Style style, Dim size, const ShardContext& shard) const {
    return style == Style::kPackedColwise ? context_.seams.packed_rows(size, shard) : contiguous_piece(size, shard);
  }

  base::Shape global_shape(const ParamInfo& param) const { return trace::global_param_shape(problem_.model, tap_of("param", param)); }

  std::vector<trace::PlanEntry> applied_plan() const {
    std::vector<trace::PlanEntry> plan;
    for (const PlanEntry& entry : plan_) {
      trace::PlanEntry applied{entry.pattern, std::string(style_name(entry.style)), {}, {}};
      for (const ParamInfo& param : kAllParams) {
        if (!matches(entry, param.name)) continue;
        if (const auto promised = promised_cut(entry.style, param.num_dims, problem_); promised && applied.cuts.empty()) applied.cuts = {*promised};
        if (applied_cut(entry.style, param.num_dims, problem_)) applied.parameters.push_back(tap_of("param", param));
      }
      plan.push_back(std::move(applied));
    }
    return plan;
  }

  Plan plan_;
  const LayerContext& context_;
  const model::Problem& problem_;
  Sharding sharding_;
};

}  // namespace

Sharding shard_parameters(const Plan& plan, const LayerContext& context) { return Sharder(plan, context).shard(); }

PlacedTensor blank_parameter(const ParamInfo& param, const Sharding& sharding, const LayerContext& context) {
  const Kept& kept = sharding.kept.find(param.name)->second;
  const std::string name = tap_of("param", param);
  return {name, blank(kept_shape(kept), to_torch(context.one.problem.dtype), context.device), kept, cuts_of(sharding.cuts, param.name),
          trace::global_param_shape(context.one.problem.model, name)};
}

}  // namespace moecheck::parallel_impls
