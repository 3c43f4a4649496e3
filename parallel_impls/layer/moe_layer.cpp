#include "parallel_impls/layer/moe_layer.h"

#include <algorithm>

#include <c10/core/GradMode.h>

#include "harness/trace/layout.h"
#include "parallel_impls/experts/recompute.h"
#include "parallel_impls/layer/progress.h"
#include "parallel_impls/layer/router.h"
#include "parallel_impls/layer/supported.h"
#include "parallel_impls/loaders/loader.h"
#include "parallel_impls/optim/training.h"
#include "parallel_impls/savers/saver.h"

namespace moecheck::parallel_impls {
namespace {

using model::Cut;
using model::Dim;
using trace::DeclaredCollective;

bool is_gathered_on_use(const Cut& cut) { return cut.mesh_dim.starts_with("fsdp"); }

class MoeLayer final : public Layer {
 public:
  MoeLayer(LayerContext context, const Plan& plan, std::unique_ptr<TokenDispatcher> dispatcher)
      : context_(std::move(context)), problem_(context_.one.problem), plan_(plan), dispatcher_(std::move(dispatcher)) {
    backend_ = context_.seams.find_backend(context_.one.experts_backend);
    if (backend_ == nullptr) throw Unsupported(fmt::format("experts backend '{}' is not known", context_.one.experts_backend));
    refuse_unsupported_sizes(context_.one);
  }

  std::string experts_backend() const override { return backend_->name; }
  at::Device device() const override { return context_.device; }
  const std::vector<trace::PlanEntry>& plan() const override { return sharding_.plan; }

  void load(const Origin& origin, Tapper& tapper) override {
    sharding_ = shard_parameters(plan_, context_);
    const bool is_training_resumed = origin.is_resumed && context_.one.checkpointing.save == cases::SaveFormat::kSharded;
    const auto source = is_training_resumed ? open_sharded_source(origin.folder, context_) : open_hf_source(origin.folder, problem_);
    load_parameters(*source);
    if (context_.one.has_phase("step")) training_ = std::make_unique<Training>(context_, params_, sharding_);
    for (const PlacedTensor& one : placed_parameters()) tapper.tap_placed(one.name, one.tensor, one.cuts, one.global_shape);
    if (training_ == nullptr) return;
    if (is_training_resumed) return restore(*source, tapper);
    for (const PlacedTensor& one : training_state()) tapper.tap_placed(one.name, one.tensor, one.cuts, one.global_shape);
  }

  void save(const std::filesystem::path& folder, const SavePoint& reached) override {
    std::vector<PlacedTensor> state = placed_parameters();
    if (context_.one.checkpointing.save == cases::SaveFormat::kHuggingFace) return save_huggingface(state, folder, context_, reached);
    if (training_ != nullptr) std::ranges::move(training_state(), std::back_inserter(state));
    save_sharded(state, folder, context_, reached);
  }

  Dim next_batch() const override { return progress_.batches(); }

  void forward(const at::Tensor& x_TD, Tapper& tapper) override {
    tapper.tap("input/x_TD", x_TD);
    const c10::AutoGradMode grad_mode(has_backward());
    if (has_backward()) make_leaves();
    kept_ = {};
    kept_.x_TD = x_TD.detach().set_requires_grad(has_backward());
    const LayerParams params = gathered_parameters();
    kept_.router = route(kept_.x_TD, params.router_ED, problem_.model, context_.seams, tapper);
    const DispatchedTokens sent = dispatcher_->dispatch(kept_.x_TD, kept_.router.slots, sharding_.experts, tapper);
    kept_.experts = experts_of({sent.x_TD, sent.slots, sharding_.experts, params.gate_up_EGD, params.down_EDF, sent.scores,
                                problem_.model.activation});
    tap_experts(kept_.experts, tapper);
    if (has_backward()) {
      retain_gradients(kept_.experts);
      kept_.router.logits_TE.retain_grad();
      kept_.router.slots.scores_TK.retain_grad();
    }
    kept_.y_TD = dispatcher_->combine(kept_.experts.partial_TD, tapper);
    tapper.tap("output/y_TD", kept_.y_TD);
    progress_.take_batch(kept_.router.slots.ids_TK);
  }

  void backward(const at::Tensor& grad_y_TD, Tapper& tapper) override {
    tapper.tap("grad/y_TD", grad_y_TD);
    kept_.y_TD.backward(grad_y_TD);
    LayerParams gradients;
    for (const ParamInfo& param : kTrainable) gradients.*param.member = gradient_of(params_.*param.member);
    context_.seams.sync_gradients(gradients, *context_.comm, gradient_dims());
    tap_row_gradients(tapper);
    tapper.tap("grad/scores_TK", gradient_of(kept_.router.slots.scores_TK));
    tapper.tap("grad/logits_TE", gradient_of(kept_.router.logits_TE));
    tapper.tap("grad/x_TD", gradient_of(kept_.x_TD));
    for (const ParamInfo& param : kTrainable)
      tapper.tap_placed(tap_of("grad", param), gradients.*param.member, cuts_of(param), trace::global_param_shape(problem_.model, tap_of("param", param)));
    if (training_ != nullptr) training_->accumulate(gradients);
  }

  void step(Tapper& tapper) override {
    training_->step(params_, progress_.learning_rate(), tapper);
    progress_.end_step(*context_.comm);
    for (const PlacedTensor& one : progress_.state()) tapper.tap_placed(one.name, one.tensor, one.cuts, one.global_shape);
  }

  std::vector<DeclaredCollective> declared(std::string_view phase) const override {
    if (phase == "load") return declared_of_fill(filled_, context_.one);
    if (phase == "step") return declared_of_step();
    if (phase == "save") return declared_of_save(placed_parameters(), context_.one);
    std::vector<DeclaredCollective> all = dispatcher_->declared(phase);
    for (const ParamInfo& param : kTrainable) declare_parameter(param, phase, all);
    return all;
  }

 private:
  // Onto blank tensors: what stays blank was never loaded.
  void load_parameters(const Source& source) {
    std::vector<PlacedTensor> blanks;
    for (const ParamInfo& param : kAllParams) blanks.push_back(blank_parameter(param, sharding_, context_));
    fill(blanks, source, context_);
    filled_ = blanks;
    for (std::size_t p = 0; p < kAllParams.size(); ++p) params_.*kAllParams[p].member = blanks[p].tensor;
    context_.seams.after_load(params_, *context_.comm);
  }

  void restore(const Source& source, Tapper& tapper) {
    const auto is_brought = [&](std::string_view name) { return source.has(name) && context_.seams.is_restored(name); };
    std::vector<PlacedTensor> blanks = training_->blank_state(is_brought);
    for (PlacedTensor& one : progress_.state())
      if (is_brought(one.name)) blanks.push_back(std::move(one));
    fill(blanks, source, context_);
    training_->finish_restoring();
    filled_.insert(filled_.end(), blanks.begin(), blanks.end());
    for (const PlacedTensor& one : blanks) tapper.tap_placed(one.name, one.tensor, one.cuts, one.global_shape);
  }

  std::vector<PlacedTensor> placed_parameters() const {
    std::vector<PlacedTensor> placed;
    for (const ParamInfo& param : kAllParams)
      placed.push_back({tap_of("param", param), (params_.*param.member).detach(), sharding_.kept.find(param.name)->second, cuts_of(param),
                        trace::global_param_shape(problem_.model, tap_of("param", param))});
    return placed;
  }

  std::vector<PlacedTensor> training_state() const {
    std::vector<PlacedTensor> state = training_->state();
    std::ranges::move(progress_.state(), std::back_inserter(state));
    return state;
  }

  std::vector<DeclaredCollective> declared_of_step() const {
    std::vector<DeclaredCollective> all = training_->declared();
    std::ranges::move(progress_.declared(), std::back_inserter(all));
    return all;
  }

  bool has_backward() const { return context_.one.has_phase("backward"); }

  std::vector<Cut> cuts_of(const ParamInfo& param) const { return parallel_impls::cuts_of(sharding_.cuts, param.name); }

  // As gradient buffers have it: zeros where no gradient arrived.
  static at::Tensor gradient_of(const at::Tensor& tensor) { return tensor.grad().defined() ? tensor.grad() : at::zeros_like(tensor); }

  // New leaves for each batch, so that a batch's gradients are its own.
  void make_leaves() {
    for (const ParamInfo& param : kTrainable) (params_.*param.member) = (params_.*param.member).detach().set_requires_grad(true);
  }

  Rows shard_rows(const Cut& cut, Dim size) const {
    Rows rows;
    const Dim pieces = problem_.mesh.size(cut.mesh_dim);
    for (Dim c = 0; c < pieces; ++c) rows.push_back(static_cast<Dim>(model::local_indices(cut.placement, size, c, pieces).size()));
    return rows;
  }

  LayerParams gathered_parameters() const {
    LayerParams whole = params_;
    for (const ParamInfo& param : kTrainable)
      for (const Cut& cut : cuts_of(param))
        if (is_gathered_on_use(cut)) {
          const base::Shape global = trace::global_param_shape(problem_.model, tap_of("param", param));
          whole.*param.member = context_.seams.gather_parameter(params_.*param.member, cut.placement.dim,
                                                                shard_rows(cut, global[static_cast<std::size_t>(cut.placement.dim)]),
                                                                {context_.comm, cut.mesh_dim, tap_of("param", param), tap_of("grad", param)});
        }
    return whole;
  }

  ExpertsOutput experts_of(const ExpertsInput& in) {
    if (!context_.one.is_recomputed || !has_backward()) return backend_->forward(in);
    recomputed_ = std::make_shared<ExpertsOutput>();
    return forward_with_recomputation(*backend_, in, recomputed_);
  }

  // Ranks with other tokens; what fsdp shards is summed on its way already, what all-to-all brings together too.
  GradientDims gradient_dims() const {
    GradientDims dims{"", "dp"};
    for (const std::string& dim : problem_.token_dims) {
      const bool is_summed = std::ranges::any_of(cuts_of(kTrainable[0]), [&](const Cut& cut) {
        return is_gathered_on_use(cut) && (cut.mesh_dim == dim || cut.mesh_dim.starts_with(dim + ",") || cut.mesh_dim.ends_with("," + dim));
      });
      if (!is_summed) dims.dense += (dims.dense.empty() ? "" : ",") + dim;
    }
    return dims;
  }

  Dim elements(const ParamInfo& param) const { return (params_.*param.member).numel(); }

  void declare_parameter(const ParamInfo& param, std::string_view phase, std::vector<DeclaredCollective>& all) const {
    const auto item = static_cast<Dim>(base::itemsize(problem_.dtype));
    const base::Shape global = trace::global_param_shape(problem_.model, tap_of("param", param));
    for (const Cut& cut : cuts_of(param)) {
      if (!is_gathered_on_use(cut)) continue;
      const Rows rows = shard_rows(cut, global[static_cast<std::size_t>(cut.placement.dim)]);
      const Dim mine = rows[static_cast<std::size_t>(context_.comm->coordinate(cut.mesh_dim))];
      const Dim longest = *std::ranges::max_element(rows);
      // A shard without rows has no size of its own to go by: the bytes are left open.
      const Dim padded = mine == 0 ? -1 : elements(param) / mine * longest * item;
      if (phase == "forward") all.push_back({"all_gather", cut.mesh_dim, tap_of("param", param), 1, padded});
      if (phase == "backward") all.push_back({"reduce_scatter", cut.mesh_dim, tap_of("grad", param), 1, padded < 0 ? -1 : padded * static_cast<Dim>(rows.size())});
    }
    const GradientDims dims = gradient_dims();
    const std::string group = group_name(problem_.mesh, param.name == kRouter ? dims.dense : dims.experts);
    if (phase == "backward" && !group.empty() && elements(param) > 0) all.push_back({"all_reduce", group, tap_of("grad", param), 1, elements(param) * item});
  }

  // How rows of the hidden dims lie: cut by tp where it cuts the experts.
  struct RowCuts {
    std::vector<Cut> packed, hidden, sum;
  };
  RowCuts row_cuts() const {
    const bool is_cut = std::ranges::any_of(cuts_of(kTrainable[2]), [](const Cut& cut) { return cut.mesh_dim == "tp"; });
    if (!is_cut) return {};
    return {{{"tp", model::strided_shard(1, 2)}}, {{"tp", model::shard(1)}}, {{"tp", model::partial()}}};
  }

  void tap_experts(const ExpertsOutput& out, Tapper& tapper) const {
    if (!tapper.is_recording()) return;
    const model::ModelSpec& spec = problem_.model;
    const at::Tensor expert_R = out.rows_R3.select(1, 2);
    const Dim rows = out.rows_R3.size(0);
    const RowCuts cuts = row_cuts();
    tapper.tap("dispatch/counts_e", at::bincount(expert_R.masked_select(expert_R >= 0), {}, sharding_.experts.count));
    tapper.tap("dispatch/rows_R3", dispatcher_->global_keys(out.rows_R3, sharding_.experts));
    tapper.tap("experts/in_RD", at::cat(out.in_RD));
    tapper.tap_placed("experts/gate_up_RG", at::cat(out.gate_up_RG), cuts.packed, {rows, spec.gate_up_rows()});
    tapper.tap_placed("experts/act_RF", at::cat(out.act_RF), cuts.hidden, {rows, spec.d_ff});
    tapper.tap_placed("experts/out_RD", at::cat(out.out_RD), cuts.sum, {rows, spec.d_model});
  }

  // A piece without rows takes no part in the backward.
  static at::Tensor gradients_of(const std::vector<at::Tensor>& pieces) {
    std::vector<at::Tensor> gradients;
    for (const at::Tensor& piece : pieces) gradients.push_back(gradient_of(piece));
    return at::cat(gradients);
  }

  void tap_row_gradients(Tapper& tapper) const {
    if (!tapper.is_recording()) return;
    const ExpertsOutput& experts = recomputed_ != nullptr && !recomputed_->out_RD.empty() ? *recomputed_ : kept_.experts;
    const model::ModelSpec& spec = problem_.model;
    const Dim rows = kept_.experts.rows_R3.size(0);
    const RowCuts cuts = row_cuts();
    tapper.tap("grad/out_RD", gradients_of(experts.out_RD));
    tapper.tap_placed("grad/act_RF", gradients_of(experts.act_RF), cuts.hidden, {rows, spec.d_ff});
    tapper.tap_placed("grad/gate_up_RG", gradients_of(experts.gate_up_RG), cuts.packed, {rows, spec.gate_up_rows()});
    tapper.tap_placed("grad/in_RD", gradients_of(experts.in_RD), cuts.sum, {rows, spec.d_model});
  }

  // Of the last forward, for its backward.
  struct Forwarded {
    at::Tensor x_TD;
    RouterOutput router;
    ExpertsOutput experts;
    at::Tensor y_TD;
  };

  LayerContext context_;
  const model::Problem& problem_;
  const Plan& plan_;
  std::unique_ptr<TokenDispatcher> dispatcher_;
  const ExpertsBackend* backend_ = nullptr;
  Sharding sharding_;
  LayerParams params_;
  Progress progress_{context_};
  std::vector<PlacedTensor> filled_;   // by the load
  Forwarded kept_;
  std::shared_ptr<ExpertsOutput> recomputed_;
  std::unique_ptr<Training> training_;
};

}  // namespace

std::unique_ptr<Layer> make_moe_layer(LayerContext context, const Plan& plan, std::unique_ptr<TokenDispatcher> dispatcher) {
  return std::make_unique<MoeLayer>(std::move(context), plan, std::move(dispatcher));
}

}  // namespace moecheck::parallel_impls
