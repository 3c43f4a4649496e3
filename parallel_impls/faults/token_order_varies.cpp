#include <algorithm>
#include <numeric>
#include <random>

#include "parallel_impls/faults/fault.h"

namespace moecheck::parallel_impls {
namespace {

at::Tensor random_order(model::Dim size, at::Device device) {
  std::vector<model::Dim> order(static_cast<std::size_t>(size));
  std::iota(order.begin(), order.end(), 0);
  std::random_device entropy;   // of no seed: no two runs are to have the same
  std::ranges::shuffle(order, std::mt19937_64(entropy()));
  return at::tensor(order, at::kLong).to(device);
}

// Each expert sums over its tokens in another order in each call; who gets which result does not change.
ExpertsOutput forward_in_any_order(const ExpertsInput& in) {
  const at::Tensor order_T = random_order(in.x_TD.size(0), in.x_TD.device());
  ExpertsInput permuted = in;
  permuted.x_TD = in.x_TD.index_select(0, order_T);
  permuted.slots = {in.slots.scores_TK.index_select(0, order_T), in.slots.ids_TK.index_select(0, order_T)};
  ExpertsOutput out = find_registered_backend("eager")->forward(permuted);
  out.partial_TD = out.partial_TD.index_select(0, order_T.argsort());
  out.rows_R3 = out.rows_R3.clone();
  out.rows_R3.select(1, 0).copy_(order_T.index_select(0, out.rows_R3.select(1, 0)));
  return out;
}

const ExpertsBackend* eager_in_any_order(std::string_view name) {
  static const ExpertsBackend any_order{"eager", forward_in_any_order};
  return name == any_order.name ? &any_order : find_registered_backend(name);
}

MOECHECK_REGISTER_FAULT({
    {"token_order_varies", "S12, transformers#45662 (table) and NVIDIA/Megatron-LM#1603",
     "no bug: rows reach the experts in another order in each run, as they may with all-to-all, and gradients differ in their last bits", "experts backend",
     "impl=ep_alltoall model=mixtral mesh=ep=2 dtype=fp32 tokens=41,37 tokens_over=dp,ep steps=4 save=sharded save_after=2 restart=ep=2 controls=3 "
     "phases=load,forward,backward,step",
     {{"resume_determinism", "grad/experts/gate_up_EGD", std::nullopt, std::nullopt}, {"resume_determinism", "optim/master/experts/gate_up_EGD", std::nullopt, std::nullopt},
      {"save_undisturbed", "grad/experts/gate_up_EGD", std::nullopt, std::nullopt}}, true},
    [](Seams& seams) { seams.find_backend = eager_in_any_order; },
});

}  // namespace
}  // namespace moecheck::parallel_impls
