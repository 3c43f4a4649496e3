#include "parallel_impls/optim/training.h"

#include <torch/optim/adamw.h>
#include <torch/optim/sgd.h>

#include "harness/trace/layout.h"
#include "parallel_impls/layer/tensor_bridge.h"

namespace moecheck::parallel_impls {
namespace {

// As torch.nn.utils.clip_grad_norm_ has it.
constexpr double kClipEps = 1e-6;

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

Training::Training(LayerContext context, const LoadedLayer& loaded) : context_(std::move(context)), cuts_(loaded.cuts) {
  std::vector<at::Tensor> owned;
  for (const ParamInfo& param : kTrainable) {
    masters_.*param.member = (loaded.params.*param.member).detach().to(at::kFloat, /*non_blocking=*/false, /*copy=*/true).set_requires_grad(true);
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
    const auto cuts = cuts_.find(param.name);
    const std::string dims = context_.seams.norm_dims(param.name, cuts == cuts_.end() ? std::vector<model::Cut>{} : cuts->second);
    context_.comm->all_reduce_sum(squares, dims, "optim/norm_1");
    sum += squares;
  }
  return sum.sqrt();
}

void Training::step(LayerParams& params, Tapper& tapper) {
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
  tap_state(tapper);
  tap("optim/master", masters_, tapper);
  tap("optim/param", params, tapper);
}

void Training::tap(std::string_view prefix, const LayerParams& tensors, Tapper& tapper) const {
  for (const ParamInfo& param : kTrainable) {
    const auto cuts = cuts_.find(param.name);
    tapper.tap_placed(tap_of(prefix, param), tensors.*param.member, cuts == cuts_.end() ? std::vector<model::Cut>{} : cuts->second,
                      trace::global_param_shape(context_.one.problem.model, tap_of("param", param)));
  }
}

// A parameter without state is not tapped: nobody steps it.
void Training::tap_state(Tapper& tapper) const {
  std::vector<std::int64_t> steps;
  for (const ParamInfo& param : kTrainable) {
    const auto& states = optimizer_->state();
    const auto state = states.find((masters_.*param.member).unsafeGetTensorImpl());
    if (state == states.end()) continue;
    const auto cuts = cuts_.find(param.name);
    const auto tap_one = [&](std::string_view prefix, const at::Tensor& tensor) {
      tapper.tap_placed(tap_of(prefix, param), tensor, cuts == cuts_.end() ? std::vector<model::Cut>{} : cuts->second,
                        trace::global_param_shape(context_.one.problem.model, tap_of("param", param)));
    };
    if (is_adamw()) {
      const auto& moments = static_cast<const torch::optim::AdamWParamState&>(*state->second);
      tap_one("optim/m", moments.exp_avg());
      tap_one("optim/v", moments.exp_avg_sq());
      steps.push_back(moments.step());
    } else {
      const auto& buffer = static_cast<const torch::optim::SGDParamState&>(*state->second).momentum_buffer();
      if (buffer.defined()) tap_one("optim/m", buffer);
    }
  }
  if (is_adamw()) tapper.tap("optim/steps_3", at::tensor(steps, at::kLong));
}

std::vector<trace::DeclaredCollective> Training::declared() const {
  std::vector<trace::DeclaredCollective> all;
  constexpr model::Dim kBytes = 4;
  for (const ParamInfo& param : kTrainable) {
    std::string dims;
    if (const auto cuts = cuts_.find(param.name); cuts != cuts_.end())
      for (const model::Cut& cut : cuts->second) dims += (dims.empty() ? "" : ",") + cut.mesh_dim;
    const std::string group = group_name(context_.comm->mesh(), dims);
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
