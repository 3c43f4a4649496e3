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

Ranges contiguous_piece(Dim size, const ShardContext& shard) {
  const Dim piece = size / shard.size;
  return {{shard.coordinate * piece, piece}};
}

class SlicedLoader {
 public:
  SlicedLoader(const std::filesystem::path& folder, const Plan& plan, LayerContext& context, Tapper& tapper)
      : checkpoint_(folder), plan_(plan), context_(context), tapper_(tapper), spec_(context.one.problem.model) {}

  LoadedLayer load() {
    LoadedLayer loaded;
    loaded.params.attention_DD = load_matrix(kAttention, spec_.names.attention, {spec_.d_model, spec_.d_model});
    loaded.params.router_ED = load_matrix(kRouter, spec_.names.router, {spec_.num_experts, spec_.d_model});
    loaded.params.gate_up_EGD = load_gate_up(loaded.experts);
    loaded.params.down_EDF = load_down();
    for (at::Tensor* tensor : {&loaded.params.attention_DD, &loaded.params.router_ED, &loaded.params.gate_up_EGD, &loaded.params.down_EDF})
      *tensor = tensor->to(context_.device);
    context_.seams.after_load(loaded.params, *context_.comm);
    tap_params(loaded.params);
    return loaded;
  }

 private:
  ShardContext shard_of(Style style) const {
    const std::string_view dim = style == Style::kGroupedGemm ? "ep" : "tp";
    const model::Mesh& mesh = context_.comm->mesh();
    return {mesh.coordinate(context_.comm->rank(), dim), mesh.size(dim), context_.local_rank};
  }

  at::Tensor load_matrix(std::string_view parameter, const std::string& name, const base::Shape& shape) {
    const Style style = context_.seams.style_of(plan_, parameter);
    const at::Tensor whole = checkpoint_.read(name, shape);
    if (style == Style::kRowwise) return take_ranges(whole, 1, contiguous_piece(shape[1], shard_of(style))).contiguous();
    return whole;
  }

  std::pair<Dim, Dim> experts_for(Style style) {
    if (style != Style::kGroupedGemm) return {0, spec_.num_experts};
    return context_.seams.expert_range(spec_.num_experts, shard_of(style));
  }

  at::Tensor load_gate_up(LocalExperts& local) {
    const Style style = context_.seams.style_of(plan_, kGateUp);
    const auto [first, count] = experts_for(style);
    local = {first, count};
    // The mesh decides which experts a rank answers for in the forward, whatever it has loaded.
    local.first = shard_of(Style::kGroupedGemm).coordinate * count;
    std::vector<at::Tensor> experts;
    for (Dim e = first; e < first + count; ++e) {
      const at::Tensor packed_GD = at::cat({checkpoint_.read(model::expert_tensor_name(spec_.names.gate, e), {spec_.d_ff, spec_.d_model}),
                                            checkpoint_.read(model::expert_tensor_name(spec_.names.up, e), {spec_.d_ff, spec_.d_model})});
      if (style == Style::kPackedColwise) {
        experts.push_back(take_ranges(packed_GD, 0, context_.seams.packed_rows(spec_.gate_up_rows(), shard_of(style))));
      } else {
        experts.push_back(packed_GD);
      }
    }
    return at::stack(experts);
  }

  at::Tensor load_down() {
    const Style style = context_.seams.style_of(plan_, kDown);
    const auto [first, count] = experts_for(style);
    std::vector<at::Tensor> experts;
    for (Dim e = first; e < first + count; ++e) {
      const at::Tensor whole_DF = checkpoint_.read(model::expert_tensor_name(spec_.names.down, e), {spec_.d_model, spec_.d_ff});
      experts.push_back(style == Style::kRowwise ? take_ranges(whole_DF, 1, contiguous_piece(spec_.d_ff, shard_of(style))) : whole_DF);
    }
    return at::stack(experts);
  }

  void tap_params(const LayerParams& params) {
    const Dim e = spec_.num_experts, d = spec_.d_model, f = spec_.d_ff, g = spec_.gate_up_rows();
    tap_param("param/attention/w_DD", kAttention, params.attention_DD, {d, d}, 1);
    tap_param("param/router/w_ED", kRouter, params.router_ED, {e, d}, 1);
    tap_param("param/experts/gate_up_EGD", kGateUp, params.gate_up_EGD, {e, g, d}, 2);
    tap_param("param/experts/down_EDF", kDown, params.down_EDF, {e, d, f}, 2);
  }

  void tap_param(std::string_view tap, std::string_view parameter, const at::Tensor& tensor, base::Shape global, Dim last_dim) {
    const Style style = context_.seams.style_of(plan_, parameter);
    model::Placement placement = model::replicate();
    if (style == Style::kGroupedGemm) placement = model::shard(0);
    if (style == Style::kPackedColwise) placement = model::strided_shard(1, 2);
    if (style == Style::kRowwise) placement = model::shard(last_dim);
    const bool is_sharded = placement.kind != model::PlacementKind::kReplicate;
    tapper_.tap_placed(tap, tensor, placement, !is_sharded ? "" : style == Style::kGroupedGemm ? "ep" : "tp", std::move(global));
  }

  Checkpoint checkpoint_;
  const Plan& plan_;
  LayerContext& context_;
  Tapper& tapper_;
  const model::ModelSpec& spec_;
};

}  // namespace

LoadedLayer load_hf_checkpoint(const std::filesystem::path& folder, const Plan& plan, LayerContext& context, Tapper& tapper) {
  return SlicedLoader(folder, plan, context, tapper).load();
}

}  // namespace moecheck::parallel_impls
