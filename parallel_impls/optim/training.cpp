#include "parallel_impls/optim/training.h"

#include <torch/optim/adamw.h>
#include <torch/optim/sgd.h>

#include "harness/trace/layout.h"
#include "parallel_impls/layer/tensor_bridge.h"

namespace moecheck::parallel_impls {
namespace {

// As torch.nn.utils.clip_grad_norm_ has it.
constexpr double kClipEps = 1e-6;

constexpr std::string_view kSteps = "optim/steps_3";

PlacedTensor of_steps(const at::Tensor& steps_3) {
  const base::Shape shape(steps_3.sizes().begin(), steps_3.sizes().end());
  return {std::string(kSteps), steps_3, keep_all(shape), {}, shape};
}

std::unique_ptr<torch::optim::Optimizer> make_optimizer(const cases::Training& training, std::vector<at::Tensor> owned) {
  if (training.optimizer == cases::OptimizerKind::kAdamW) {
    return std::make_unique<torch::optim::AdamW>(
        std::move(owned), torch::optim::AdamWOptions(training.learning_rate)
                              .betas({cases::Training::kBeta1, cases::Training::kBeta2})
                              .eps(cases::Training::kEps)
                              .weight_decay(training.weight_decay));
  }
  return std::make_unique<torch::optim::SGD>(
      std::move(owned), torch::optim::SGDOptions(training.learning_rate).momentum(training.momentum).weight_decay(training.weight_decay));
}

}  // namespace

Training::Training(LayerContext context, const LayerParams& params, Sharding sharding) : context_(std::move(context)), sharding_(std::move(sharding)) {
  std::vector<at::Tensor> owned;
  for (const ParamInfo& param : kTrainable) {
    masters_.*param.member = (params.*param.member).detach().to(at::kFloat, /*non_blocking=*/false, /*copy=*/true).set_requires_grad(true);
    gradients_.*param.member = at::zeros_like(masters_.*param.member);
    if (context_.seams.is_owned(param.name)) owned.push_back(masters_.*param.member);
  }
  optimizer_ = make_optimizer(context_.one.training, std::move(owned));
}

Training::~Training() = default;

void Training::accumulate(const LayerParams& gradients) {
  for (const ParamInfo& param : kTrainable) (gradients_.*param.member).add_((gradients.*param.member).to(at::kFloat));
}

// Each shard once: squares are summed over the dimensions that a parameter is sharded over, and over no others.
at::Tensor Training::global_norm() const {
  at::Tensor sum = at::zeros({1}, gradients_.router_ED.options());
  for (const ParamInfo& param : kTrainable) {
    at::Tensor squares = (gradients_.*param.member).square().sum().reshape({1});
    const std::string dims = context_.seams.norm_dims(param.name, cuts_of(sharding_.cuts, param.name));
    context_.comm->all_reduce_sum(squares, dims, "optim/norm_1");
    sum += squares;
  }
  return sum.sqrt();
}

void Training::set_learning_rate(double rate) {
  for (torch::optim::OptimizerParamGroup& group : optimizer_->param_groups()) group.options().set_lr(rate);
}

void Training::step(LayerParams& params, double learning_rate, Tapper& tapper) {
  set_learning_rate(learning_rate);
  tap("optim/grad", gradients_, tapper);
  const at::Tensor norm = global_norm();
  const double limit = context_.one.training.clip_norm;
  const at::Tensor clip = limit > 0 ? (limit / (norm + kClipEps)).clamp_max(1.0) : at::ones_like(norm);
  tapper.tap("optim/norm_1", norm);
  tapper.tap("optim/clip_1", clip);
  for (const ParamInfo& param : kTrainable)
    (masters_.*param.member).mutable_grad() = limit > 0 ? gradients_.*param.member * clip : (gradients_.*param.member).clone();
  optimizer_->step();
  {
    const c10::AutoGradMode off(false);
    context_.seams.after_step(masters_, *context_.comm);
    for (const ParamInfo& param : kTrainable) {
      (params.*param.member) = (masters_.*param.member).detach().to((params.*param.member).scalar_type(), false, /*copy=*/true);
      (gradients_.*param.member).zero_();
    }
  }
  for (const PlacedTensor& one : state()) tapper.tap_placed(one.name, one.tensor, one.cuts, one.global_shape);
  tap("optim/param", params, tapper);
}

PlacedTensor Training::placed(std::string_view prefix, const ParamInfo& param, const at::Tensor& tensor) const {
  return {tap_of(prefix, param), tensor, sharding_.kept.find(param.name)->second, cuts_of(sharding_.cuts, param.name),
          trace::global_param_shape(context_.one.problem.model, tap_of("param", param))};
}

void Training::tap(std::string_view prefix, const LayerParams& tensors, Tapper& tapper) const {
  for (const ParamInfo& param : kTrainable) {
    const PlacedTensor one = placed(prefix, param, tensors.*param.member);
    tapper.tap_placed(one.name, one.tensor, one.cuts, one.global_shape);
  }
}

// A parameter without state has none to show: nobody steps it.
void Training::add_moments(const ParamInfo& param, std::vector<PlacedTensor>& state) const {
  const auto found = optimizer_->state().find((masters_.*param.member).unsafeGetTensorImpl());
  if (found == optimizer_->state().end()) return;
  if (is_adamw()) {
    const auto& moments = static_cast<const torch::optim::AdamWParamState&>(*found->second);
    state.push_back(placed("optim/m", param, moments.exp_avg()));
    state.push_back(placed("optim/v", param, moments.exp_avg_sq()));
  } else {
    const auto& buffer = static_cast<const torch::optim::SGDParamState&>(*found->second).momentum_buffer();
    if (buffer.defined()) state.push_back(placed("optim/m", param, buffer));
  }
}

std::vector<PlacedTensor> Training::state() const {
  std::vector<PlacedTensor> state;
  std::vector<std::int64_t> steps;
  for (const ParamInfo& param : kTrainable) {
    state.push_back(placed("optim/master", param, (masters_.*param.member).detach()));
    add_moments(param, state);
    const auto found = optimizer_->state().find((masters_.*param.member).unsafeGetTensorImpl());
    if (is_adamw() && found != optimizer_->state().end()) steps.push_back(static_cast<const torch::optim::AdamWParamState&>(*found->second).step());
  }
  if (!steps.empty()) state.push_back(of_steps(at::tensor(steps, at::kLong)));
  return state;
}

// A fresh optimizer has no moments: what a load is to fill has to be made first.
void Training::make_moments(const ParamInfo& param, const std::function<bool(std::string_view name)>& has) {
  const at::Tensor& master = masters_.*param.member;
  const auto like_master = [&] { return blank(base::Shape(master.sizes().begin(), master.sizes().end()), at::kFloat, master.device()); };
  if (!has(tap_of("optim/m", param)) || !context_.seams.is_owned(param.name)) return;
  if (is_adamw()) {
    auto moments = std::make_unique<torch::optim::AdamWParamState>();
    moments->exp_avg(like_master());
    moments->exp_avg_sq(like_master());
    moments->step(0);
    optimizer_->state()[master.unsafeGetTensorImpl()] = std::move(moments);
  } else {
    auto buffer = std::make_unique<torch::optim::SGDParamState>();
    buffer->momentum_buffer(like_master());
    optimizer_->state()[master.unsafeGetTensorImpl()] = std::move(buffer);
  }
}

std::vector<PlacedTensor> Training::blank_state(const std::function<bool(std::string_view name)>& has) {
  const c10::AutoGradMode off(false);
  std::vector<PlacedTensor> state;
  for (const ParamInfo& param : kTrainable) {
    if (has(tap_of("optim/master", param))) {
      state.push_back(placed("optim/master", param, (masters_.*param.member).detach()));
      state.back().tensor.fill_(std::numeric_limits<float>::quiet_NaN());
    }
    make_moments(param, has);
    add_moments(param, state);
  }
  if (has(kSteps)) {
    restored_steps_3_ = blank({static_cast<model::Dim>(kTrainable.size())}, at::kLong, at::kCPU);
    state.push_back(of_steps(restored_steps_3_));
  }
  return state;
}

void Training::finish_restoring() {
  for (std::size_t p = 0; restored_steps_3_.defined() && p < kTrainable.size(); ++p) {
    const auto found = optimizer_->state().find((masters_.*kTrainable[p].member).unsafeGetTensorImpl());
    if (found != optimizer_->state().end()) static_cast<torch::optim::AdamWParamState&>(*found->second).step(restored_steps_3_[static_cast<std::int64_t>(p)].item<std::int64_t>());
  }
}

std::vector<trace::DeclaredCollective> Training::declared() const {
  std::vector<trace::DeclaredCollective> all;
  constexpr model::Dim kBytes = 4;
  for (const ParamInfo& param : kTrainable) {
    const std::string group = group_name(context_.comm->mesh(), dims_of(cuts_of(sharding_.cuts, param.name)));
    if (group.empty()) continue;
    const auto same = std::ranges::find(all, group, &trace::DeclaredCollective::group);
    if (same == all.end()) {
      all.push_back({"all_reduce", group, "optim/norm_1", 1, kBytes});
    } else {
      ++same->times;
      same->bytes += kBytes;
    }
  }
  return all;
}

}  // namespace moecheck::parallel_impls
