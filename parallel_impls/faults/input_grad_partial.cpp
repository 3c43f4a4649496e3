#include "parallel_impls/faults/fault.h"

namespace moecheck::parallel_impls {
namespace {

MOECHECK_REGISTER_FAULT({
    {"input_grad_partial", "G01, torchtitan#1805",
     "tokens enter the sharded experts without a backward reduction: each rank's partial gradient passes for the whole", "enter_tokens",
     "impl=tp_sharded model=qwen3_moe mesh=tp=2 dtype=fp32 phases=load,forward,backward",
     {{"gradient_parity", "grad/x_TD", 0, std::nullopt}, {"gradient_parity", "grad/x_TD", 1, std::nullopt}}},
    [](Seams& seams) {
      seams.enter_tokens = [](const at::Tensor& x_TD, const Meeting&) { return x_TD; };
    },
});

}  // namespace
}  // namespace moecheck::parallel_impls
