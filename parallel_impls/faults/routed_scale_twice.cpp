#include "parallel_impls/faults/fault.h"

namespace moecheck::parallel_impls {
namespace {

// Of deepseek_v3.
constexpr double kRoutedScale = 2;

// The scores have the factor already.
at::Tensor scaled_again(const at::Tensor& partial_TD, const Meeting& where) { return reduce_from_group(partial_TD * kRoutedScale, where); }

MOECHECK_REGISTER_FAULT({
    {"routed_scale_twice", "vllm-project/vllm#24119",
     "the routed experts' output is multiplied by the factor that their scores were multiplied by already", "combine",
     "impl=ep_allreduce model=deepseek_v3 mesh=ep=2 dtype=bf16",
     {{"stage_diff", "output/y_TD", 0, std::nullopt}, {"stage_diff", "output/y_TD", 1, std::nullopt}}},
    [](Seams& seams) { seams.combine = scaled_again; },
});

}  // namespace
}  // namespace moecheck::parallel_impls
