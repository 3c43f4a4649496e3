#include "parallel_impls/layer/replicated_tokens_layer.h"

#include <algorithm>

#include <c10/core/GradMode.h>

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
    const c10::AutoGradMode grad_mode(has_backward());
    if (has_backward()) require_gradients();
    kept_.x_TD = x_TD.detach().set_requires_grad(has_backward());
    kept_.router = route(kept_.x_TD, loaded_.params.router_ED, context_.one.problem.model, context_.seams, tapper);
    const RoutedSlots global{context_.seams.enter_scores(kept_.router.slots.scores_TK, context_.comm, group_dim_), kept_.router.slots.ids_TK};
    const RoutedSlots slots = has_local_experts() ? context_.seams.shard_routing(global, loaded_.experts) : global;
    tapper.tap("dispatch/scores_TK", slots.scores_TK);
    tapper.tap("dispatch/ids_TK", slots.ids_TK);
    const at::Tensor entered_TD = context_.seams.enter_tokens(kept_.x_TD, context_.comm, group_dim_);
    kept_.experts = backend_->forward({entered_TD, slots, loaded_.experts, loaded_.params.gate_up_EGD, loaded_.params.down_EDF});
    tap_experts(kept_.experts, tapper);
    if (has_backward()) retain_gradients();
    kept_.y_TD = context_.seams.combine(kept_.experts.partial_TD, context_.comm, group_dim_);
    tapper.tap("output/y_TD", kept_.y_TD);
  }

  void backward(const at::Tensor& grad_y_TD, Tapper& tapper) override {
    tapper.tap("grad/y_TD", grad_y_TD);
    kept_.y_TD.backward(grad_y_TD);
    LayerParams gradients{at::Tensor(), loaded_.params.router_ED.grad(), loaded_.params.gate_up_EGD.grad(), loaded_.params.down_EDF.grad()};
    context_.seams.sync_gradients(gradients, *context_.comm);
    tap_row_gradients(tapper);
    tapper.tap("grad/scores_TK", kept_.router.slots.scores_TK.grad());
    tapper.tap("grad/logits_TE", kept_.router.logits_TE.grad());
    tapper.tap("grad/x_TD", kept_.x_TD.grad());
    tap_param_gradients(gradients, tapper);
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

  bool has_backward() const { return std::ranges::find(context_.one.phases, "backward") != context_.one.phases.end(); }

  void require_gradients() {
    for (at::Tensor* parameter : {&loaded_.params.router_ED, &loaded_.params.gate_up_EGD, &loaded_.params.down_EDF})
      *parameter = parameter->detach().set_requires_grad(true);
  }

  // Autograd keeps gradients of leaves only, unless asked.
  void retain_gradients() {
    for (auto* pieces : {&kept_.experts.gate_up_RG, &kept_.experts.act_RF, &kept_.experts.out_RD})
      for (at::Tensor& piece : *pieces) piece.retain_grad();
    kept_.router.logits_TE.retain_grad();
    kept_.router.slots.scores_TK.retain_grad();
  }

  struct RowPlacements {
    model::Placement packed, hidden, sum;
    std::string_view dim;
  };
  RowPlacements row_placements() const {
    if (!context_.comm->mesh().has("tp")) return {};
    return {model::strided_shard(1, 2), model::shard(1), model::partial(), "tp"};
  }

  void tap_experts(const ExpertsOutput& out, Tapper& tapper) const {
    const model::ModelSpec& spec = context_.one.problem.model;
    const at::Tensor expert_R = out.rows_R3.select(1, 2);
    const at::Tensor global_R = at::where(expert_R < 0, expert_R, expert_R + loaded_.experts.first);
    const Dim rows = out.rows_R3.size(0);
    const RowPlacements at_rows = row_placements();
    tapper.tap("dispatch/counts_e", at::bincount(expert_R.masked_select(expert_R >= 0), {}, loaded_.experts.count));
    tapper.tap("dispatch/rows_R3", at::cat({out.rows_R3.narrow(1, 0, 2), global_R.unsqueeze(1)}, 1));
    tapper.tap_placed("experts/gate_up_RG", at::cat(out.gate_up_RG), at_rows.packed, at_rows.dim, {rows, spec.gate_up_rows()});
    tapper.tap_placed("experts/act_RF", at::cat(out.act_RF), at_rows.hidden, at_rows.dim, {rows, spec.d_ff});
    tapper.tap_placed("experts/out_RD", at::cat(out.out_RD), at_rows.sum, at_rows.dim, {rows, spec.d_model});
    const bool is_reduced = context_.comm->mesh().has(group_dim_);
    tapper.tap_placed("combine/partial_TD", out.partial_TD, is_reduced ? model::partial() : model::replicate(),
                      is_reduced ? std::string_view(group_dim_) : "", {out.partial_TD.size(0), spec.d_model});
  }

  // A piece without rows takes no part in the backward.
  static at::Tensor gradients_of(const std::vector<at::Tensor>& pieces) {
    std::vector<at::Tensor> gradients;
    for (const at::Tensor& piece : pieces) gradients.push_back(piece.grad().defined() ? piece.grad() : at::zeros_like(piece));
    return at::cat(gradients);
  }

  void tap_row_gradients(Tapper& tapper) const {
    const model::ModelSpec& spec = context_.one.problem.model;
    const Dim rows = kept_.experts.rows_R3.size(0);
    const RowPlacements at_rows = row_placements();
    tapper.tap_placed("grad/out_RD", gradients_of(kept_.experts.out_RD), model::replicate(), "", {rows, spec.d_model});
    tapper.tap_placed("grad/act_RF", gradients_of(kept_.experts.act_RF), at_rows.hidden, at_rows.dim, {rows, spec.d_ff});
    tapper.tap_placed("grad/gate_up_RG", gradients_of(kept_.experts.gate_up_RG), at_rows.packed, at_rows.dim, {rows, spec.gate_up_rows()});
  }

  // A gradient lies as its parameter does.
  void tap_param_gradients(const LayerParams& gradients, Tapper& tapper) const {
    const model::ModelSpec& spec = context_.one.problem.model;
    const bool is_ep = context_.comm->mesh().has("ep"), is_tp = context_.comm->mesh().has("tp");
    const std::string_view dim = is_ep ? "ep" : is_tp ? "tp" : "";
    const model::Placement gate_up = is_ep ? model::shard(0) : is_tp ? model::strided_shard(1, 2) : model::replicate();
    const model::Placement down = is_ep ? model::shard(0) : is_tp ? model::shard(2) : model::replicate();
    tapper.tap("grad/router/w_ED", gradients.router_ED);
    tapper.tap_placed("grad/experts/gate_up_EGD", gradients.gate_up_EGD, gate_up, dim, {spec.num_experts, spec.gate_up_rows(), spec.d_model});
    tapper.tap_placed("grad/experts/down_EDF", gradients.down_EDF, down, dim, {spec.num_experts, spec.d_model, spec.d_ff});
  }

  // Of the last forward, for its backward.
  struct Kept {
    at::Tensor x_TD;
    RouterOutput router;
    ExpertsOutput experts;
    at::Tensor y_TD;
  };

  LayerContext context_;
  const Plan& plan_;
  std::string group_dim_;
  const ExpertsBackend* backend_ = nullptr;
  LoadedLayer loaded_;
  Kept kept_;
};

}  // namespace

std::unique_ptr<Layer> make_replicated_tokens_layer(LayerContext context, const Plan& plan, std::string group_dim) {
  return std::make_unique<ReplicatedTokensLayer>(std::move(context), plan, std::move(group_dim));
}

}  // namespace moecheck::parallel_impls
