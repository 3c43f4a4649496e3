#include "parallel_impls/layer/replicated_tokens_layer.h"

#include "parallel_impls/layer/router.h"

namespace moecheck::parallel_impls {
namespace {

using model::Dim;

// at::_grouped_mm wants rows of its operands to begin at multiples of this.
constexpr Dim kGroupedAlignmentBytes = 16;

class ReplicatedTokensLayer final : public Layer {
 public:
  ReplicatedTokensLayer(LayerContext context, const Plan& plan, std::string group_dim)
      : context_(std::move(context)), plan_(plan), group_dim_(std::move(group_dim)) {
    backend_ = context_.seams.find_backend(context_.one.experts_backend);
    if (backend_ == nullptr) throw Unsupported(fmt::format("experts backend '{}' is not known", context_.one.experts_backend));
    refuse_unaligned_groups();
  }

  std::string experts_backend() const override { return backend_->name; }
  at::Device device() const override { return context_.device; }

  void load(const std::filesystem::path& checkpoint, Tapper& tapper) override {
    loaded_ = load_hf_checkpoint(checkpoint, plan_, context_, tapper);
  }

  void forward(const at::Tensor& x_TD, Tapper& tapper) override {
    tapper.tap("input/x_TD", x_TD);
    const RoutedSlots global = route(x_TD, loaded_.params.router_ED, context_.one.problem.model, context_.seams, tapper);
    const RoutedSlots slots = has_local_experts() ? context_.seams.shard_routing(global, loaded_.experts) : global;
    tapper.tap("dispatch/scores_TK", slots.scores_TK);
    tapper.tap("dispatch/ids_TK", slots.ids_TK);
    ExpertsOutput out = backend_->forward({x_TD, slots, loaded_.experts, loaded_.params.gate_up_EGD, loaded_.params.down_EDF});
    tap_experts(out, tapper);
    context_.seams.combine(out.partial_TD, *context_.comm, group_dim_);
    tapper.tap("output/y_TD", out.partial_TD);
  }

 private:
  bool has_local_experts() const { return context_.comm->mesh().has("ep"); }

  void refuse_unaligned_groups() const {
    const cases::Case& one = context_.one;
    const auto item = static_cast<Dim>(base::itemsize(one.problem.dtype));
    const Dim local_f = one.problem.model.d_ff / one.problem.mesh.size("tp");
    if (one.experts_backend != "grouped_mm") return;
    if (one.problem.model.d_model * item % kGroupedAlignmentBytes != 0 || local_f * item % kGroupedAlignmentBytes != 0)
      throw Unsupported(fmt::format("grouped_mm needs d_model and the local d_ff ({} and {}) to fill multiples of {} bytes in {}",
                                    one.problem.model.d_model, local_f, kGroupedAlignmentBytes, base::knob_name(one.problem.dtype)));
  }

  void tap_experts(const ExpertsOutput& out, Tapper& tapper) const {
    const model::ModelSpec& spec = context_.one.problem.model;
    const at::Tensor expert_R = out.rows_R3.select(1, 2);
    const at::Tensor global_R = at::where(expert_R < 0, expert_R, expert_R + loaded_.experts.first);
    const Dim rows = out.rows_R3.size(0);
    const bool is_sliced = context_.comm->mesh().has("tp");
    const model::Placement packed = is_sliced ? model::strided_shard(1, 2) : model::replicate();
    const model::Placement hidden = is_sliced ? model::shard(1) : model::replicate();
    const model::Placement sum = is_sliced ? model::partial() : model::replicate();
    const std::string_view dim = is_sliced ? "tp" : "";
    tapper.tap("dispatch/counts_e", at::bincount(expert_R.masked_select(expert_R >= 0), {}, loaded_.experts.count));
    tapper.tap("dispatch/rows_R3", at::cat({out.rows_R3.narrow(1, 0, 2), global_R.unsqueeze(1)}, 1));
    tapper.tap_placed("experts/gate_up_RG", out.gate_up_RG, packed, dim, {rows, spec.gate_up_rows()});
    tapper.tap_placed("experts/act_RF", out.act_RF, hidden, dim, {rows, spec.d_ff});
    tapper.tap_placed("experts/out_RD", out.out_RD, sum, dim, {rows, spec.d_model});
    const bool is_reduced = context_.comm->mesh().has(group_dim_);
    tapper.tap_placed("combine/partial_TD", out.partial_TD, is_reduced ? model::partial() : model::replicate(),
                      is_reduced ? std::string_view(group_dim_) : "", {out.partial_TD.size(0), spec.d_model});
  }

  LayerContext context_;
  const Plan& plan_;
  std::string group_dim_;
  const ExpertsBackend* backend_ = nullptr;
  LoadedLayer loaded_;
};

}  // namespace

std::unique_ptr<Layer> make_replicated_tokens_layer(LayerContext context, const Plan& plan, std::string group_dim) {
  return std::make_unique<ReplicatedTokensLayer>(std::move(context), plan, std::move(group_dim));
}

}  // namespace moecheck::parallel_impls
