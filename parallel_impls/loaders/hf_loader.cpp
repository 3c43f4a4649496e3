#include "parallel_impls/loaders/hf_loader.h"

#include <algorithm>

#include "harness/subject/checkpoint.h"
#include "harness/trace/safetensors.h"
#include "parallel_impls/layer/tensor_bridge.h"

namespace moecheck::parallel_impls {
namespace {

using model::Dim;

// The files of one checkpoint; tensors by name and shape, or an exception that says what is wrong.
class Checkpoint {
 public:
  explicit Checkpoint(const std::filesystem::path& folder) : path_(folder / subject::kCheckpointFile) {
    auto file = trace::read_safetensors(path_);
    if (!file) throw FileFailure("checkpoint " + file.error().text());
    tensors_ = std::move(file->tensors);
  }

  at::Tensor read(const std::string& name, const base::Shape& shape) const {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) throw FileFailure(fmt::format("checkpoint {} has no tensor '{}'", path_.string(), name));
    if (found->second.shape() != shape)
      throw FileFailure(fmt::format("checkpoint {}: tensor '{}' has shape {}, expected {}", path_.string(), name,
                                           base::shape_text(found->second.shape()), base::shape_text(shape)));
    return to_torch(found->second);
  }

 private:
  std::filesystem::path path_;
  std::map<std::string, base::HostTensor> tensors_;
};

at::Tensor take_ranges(const at::Tensor& tensor, Dim dim, const Ranges& ranges) {
  std::vector<at::Tensor> pieces;
  for (const auto& [first, count] : ranges) pieces.push_back(tensor.narrow(dim, first, count));
  return at::cat(pieces, dim);
}

// Pieces of ceil(size / n); the last ones may be smaller, or empty.
Ranges contiguous_piece(Dim size, const ShardContext& shard) {
  const Dim piece = (size + shard.size - 1) / shard.size;
  const Dim first = std::min(size, shard.coordinate * piece);
  return {{first, std::min(piece, size - first)}};
}

class SlicedLoader {
 public:
  SlicedLoader(const std::filesystem::path& folder, const Plan& plan, LayerContext& context, Tapper& tapper)
      : checkpoint_(folder), plan_(context.seams.plan(plan)), context_(context), tapper_(tapper), problem_(context.one.problem),
        spec_(problem_.model) {}

  LoadedLayer load() {
    loaded_.params.attention_DD = load_matrix(kAttentionParam, spec_.names.attention, {spec_.d_model, spec_.d_model});
    loaded_.params.router_ED = load_matrix(kTrainable[0], spec_.names.router, {spec_.num_experts, spec_.d_model});
    loaded_.params.gate_up_EGD = load_experts(kTrainable[1], [&](Dim e) { return packed_GD(e); });
    loaded_.params.down_EDF = load_experts(kTrainable[2], [&](Dim e) { return checkpoint_.read(model::expert_tensor_name(spec_.names.down, e), {spec_.d_model, spec_.d_ff}); });
    for (at::Tensor* tensor : {&loaded_.params.attention_DD, &loaded_.params.router_ED, &loaded_.params.gate_up_EGD, &loaded_.params.down_EDF})
      *tensor = tensor->to(context_.device);
    context_.seams.after_load(loaded_.params, *context_.comm);
    loaded_.plan = applied_plan();
    tap_param(kAttentionParam, {spec_.d_model, spec_.d_model});
    tap_param(kTrainable[0], {spec_.num_experts, spec_.d_model});
    tap_param(kTrainable[1], {spec_.num_experts, spec_.gate_up_rows(), spec_.d_model});
    tap_param(kTrainable[2], {spec_.num_experts, spec_.d_model, spec_.d_ff});
    return std::move(loaded_);
  }

 private:
  // Taken from the plan entry by entry: a style that does not apply to the parameter leaves it whole.
  const std::vector<std::pair<Style, model::Cut>>& cuts_of(const ParamInfo& param) {
    if (const auto known = styles_.find(param.name); known != styles_.end()) return known->second;
    auto& cuts = styles_[std::string(param.name)];
    for (const Style style : context_.seams.styles_of(plan_, param.name))
      if (auto cut = applied_cut(style, param.num_dims, problem_)) {
        cuts.emplace_back(style, *cut);
        loaded_.cuts[std::string(param.name)].push_back(*cut);
      }
    return cuts;
  }

  ShardContext shard_of(const model::Cut& cut) const {
    return {context_.comm->coordinate(cut.mesh_dim), context_.comm->mesh().size(cut.mesh_dim), context_.local_rank};
  }

  // Cuts dimension `dim` of `whole`, which is dimension `dim + offset` of the parameter.
  at::Tensor cut(at::Tensor whole, const ParamInfo& param, Dim offset) {
    for (const auto& [style, cut] : cuts_of(param)) {
      const Dim dim = cut.placement.dim - offset;
      if (dim < 0) continue;
      const Ranges kept = style == Style::kPackedColwise ? context_.seams.packed_rows(whole.size(dim), shard_of(cut)) : contiguous_piece(whole.size(dim), shard_of(cut));
      whole = take_ranges(whole, dim, kept);
    }
    return whole.contiguous();
  }

  at::Tensor load_matrix(const ParamInfo& param, const std::string& name, const base::Shape& shape) {
    return cut(checkpoint_.read(name, shape), param, 0);
  }

  at::Tensor packed_GD(Dim e) const {
    return at::cat({checkpoint_.read(model::expert_tensor_name(spec_.names.gate, e), {spec_.d_ff, spec_.d_model}),
                    checkpoint_.read(model::expert_tensor_name(spec_.names.up, e), {spec_.d_ff, spec_.d_model})});
  }

  template <typename Read>
  at::Tensor load_experts(const ParamInfo& param, Read read) {
    std::pair<Dim, Dim> range{0, spec_.num_experts};
    // The mesh decides which experts a rank answers for in the forward, whatever it has loaded.
    Dim coordinate = 0;
    for (const auto& [style, cut] : cuts_of(param)) {
      if (style != Style::kGroupedGemm) continue;
      range = context_.seams.expert_range(spec_.num_experts, shard_of(cut));
      coordinate = shard_of(cut).coordinate;
    }
    if (param.name == kGateUp) loaded_.experts = {coordinate * range.second, range.second};
    std::vector<at::Tensor> experts;
    for (Dim e = range.first; e < range.first + range.second; ++e) experts.push_back(cut(read(e), param, 1));
    return at::stack(experts);
  }

  std::vector<trace::PlanEntry> applied_plan() {
    std::vector<trace::PlanEntry> plan;
    for (const PlanEntry& entry : plan_) {
      trace::PlanEntry applied{entry.pattern, std::string(style_name(entry.style)), {}, {}};
      for (const ParamInfo& param : {kAttentionParam, kTrainable[0], kTrainable[1], kTrainable[2]}) {
        if (!matches(entry, param.name)) continue;
        if (const auto promised = promised_cut(entry.style, param.num_dims, problem_); promised && applied.cuts.empty()) applied.cuts = {*promised};
        if (applied_cut(entry.style, param.num_dims, problem_)) applied.parameters.push_back(tap_of("param", param));
      }
      plan.push_back(std::move(applied));
    }
    return plan;
  }

  void tap_param(const ParamInfo& param, base::Shape global) {
    tapper_.tap_placed(tap_of("param", param), loaded_.params.*param.member, loaded_.cuts[std::string(param.name)], std::move(global));
  }

  Checkpoint checkpoint_;
  Plan plan_;
  LayerContext& context_;
  Tapper& tapper_;
  const model::Problem& problem_;
  const model::ModelSpec& spec_;
  LoadedLayer loaded_;
  std::map<std::string, std::vector<std::pair<Style, model::Cut>>, std::less<>> styles_;
};

}  // namespace

LoadedLayer load_hf_checkpoint(const std::filesystem::path& folder, const Plan& plan, LayerContext& context, Tapper& tapper) {
  return SlicedLoader(folder, plan, context, tapper).load();
}

}  // namespace moecheck::parallel_impls
