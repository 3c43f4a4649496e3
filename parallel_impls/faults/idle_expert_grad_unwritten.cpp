#include <torch/csrc/autograd/custom_function.h>

#include "parallel_impls/faults/fault.h"

namespace moecheck::parallel_impls {
namespace {

namespace ag = torch::autograd;

// A weight gradient whose buffer comes from empty(), and whose experts without rows are skipped.
struct SkipIdleExperts : ag::Function<SkipIdleExperts> {
  static at::Tensor forward(ag::AutogradContext* context, const at::Tensor& weights, const at::Tensor& counts_e) {
    context->saved_data["counts"] = counts_e;
    return weights.clone();
  }
  static ag::variable_list backward(ag::AutogradContext* context, const ag::variable_list& gradients) {
    const at::Tensor counts_e = context->saved_data["counts"].toTensor();
    at::Tensor buffer = at::empty_like(gradients[0]);
    for (model::Dim e = 0; e < buffer.size(0); ++e)
      if (counts_e[e].item<model::Dim>() > 0) buffer[e].copy_(gradients[0][e]);
    return {buffer, at::Tensor()};
  }
};

const ExpertsBackend* skipping_eager(std::string_view name) {
  static const ExpertsBackend skipping{"eager", [](ExpertsInput in) {
                                         const at::Tensor ids = in.slots.ids_TK.masked_select(in.slots.ids_TK < in.local.count);
                                         const at::Tensor counts_e = at::bincount(ids, {}, in.local.count);
                                         in.gate_up_EGD = SkipIdleExperts::apply(in.gate_up_EGD, counts_e);
                                         in.down_EDF = SkipIdleExperts::apply(in.down_EDF, counts_e);
                                         return find_registered_backend("eager")->forward(in);
                                       }};
  return name == skipping.name ? &skipping : find_registered_backend(name);
}

MOECHECK_REGISTER_FAULT({
    {"idle_expert_grad_unwritten", "N03, MSLK#158 and grouped_gemm#36",
     "the weight gradient of an expert without tokens is never written", "experts backend",
     "impl=ep_alltoall model=mixtral mesh=ep=2 dtype=bf16 tokens=17,9 tokens_over=dp,ep routing=idle_rank phases=load,forward,backward",
     {{"nonfinite", "grad/experts/gate_up_EGD", std::nullopt, std::nullopt}, {"nonfinite", "grad/experts/down_EDF", std::nullopt, std::nullopt}}},
    [](Seams& seams) { seams.find_backend = skipping_eager; },
});

}  // namespace
}  // namespace moecheck::parallel_impls
