#include "parallel_impls/experts/recompute.h"

#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/custom_function.h>

namespace moecheck::parallel_impls {
namespace {

namespace ag = torch::autograd;

struct Recomputation : torch::CustomClassHolder {
  const ExpertsBackend* backend = nullptr;
  ExpertsInput in;             // without the tensors that autograd saves
  ExpertsOutput first;
  std::shared_ptr<ExpertsOutput> again;
};

ExpertsInput with_tensors(ExpertsInput in, const ag::variable_list& tensors) {
  in.x_TD = tensors[0];
  in.slots.scores_TK = tensors[1];
  in.gate_up_EGD = tensors[2];
  in.down_EDF = tensors[3];
  return in;
}

struct Recomputed : ag::Function<Recomputed> {
  static at::Tensor forward(ag::AutogradContext* context, const at::Tensor& x_TD, const at::Tensor& scores_TK, const at::Tensor& gate_up_EGD,
                            const at::Tensor& down_EDF, const c10::intrusive_ptr<Recomputation>& what) {
    const c10::AutoGradMode off(false);
    context->save_for_backward({x_TD, scores_TK, gate_up_EGD, down_EDF});
    context->saved_data["what"] = c10::IValue::make_capsule(what);
    what->first = what->backend->forward(with_tensors(what->in, {x_TD, scores_TK, gate_up_EGD, down_EDF}));
    return what->first.partial_TD;
  }

  static ag::variable_list backward(ag::AutogradContext* context, const ag::variable_list& gradients) {
    const auto what = c10::static_intrusive_pointer_cast<Recomputation>(context->saved_data["what"].toCapsule());
    ag::variable_list inputs;
    for (const at::Tensor& saved : context->get_saved_variables()) inputs.push_back(saved.detach().set_requires_grad(true));
    const c10::AutoGradMode on(true);
    *what->again = what->backend->forward(with_tensors(what->in, inputs));
    retain_gradients(*what->again);
    what->again->partial_TD.backward(gradients[0]);
    ag::variable_list result;
    for (const at::Tensor& input : inputs) result.push_back(input.grad().defined() ? input.grad() : at::zeros_like(input));
    result.emplace_back();
    return result;
  }
};

}  // namespace

ExpertsOutput forward_with_recomputation(const ExpertsBackend& backend, const ExpertsInput& in, const std::shared_ptr<ExpertsOutput>& recomputed) {
  auto what = c10::make_intrusive<Recomputation>();
  what->backend = &backend;
  what->in = with_tensors(in, ag::variable_list(4));
  what->in.slots.ids_TK = in.slots.ids_TK;
  what->again = recomputed;
  const at::Tensor partial_TD = Recomputed::apply(in.x_TD, in.slots.scores_TK, in.gate_up_EGD, in.down_EDF, what);
  // Left in place, the partial sum would hold the node that holds it.
  ExpertsOutput out = std::exchange(what->first, {});
  out.partial_TD = partial_TD;
  return out;
}

void retain_gradients(ExpertsOutput& out) {
  for (auto* pieces : {&out.in_RD, &out.gate_up_RG, &out.act_RF, &out.out_RD})
    for (at::Tensor& piece : *pieces)
      if (piece.requires_grad()) piece.retain_grad();
}

}  // namespace moecheck::parallel_impls
