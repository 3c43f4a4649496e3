#include "parallel_impls/faults/fault.h"

namespace moecheck::parallel_impls {
namespace {

// Probabilities are rounded to bf16 before the top-k: experts within one bf16 ulp of each other become ties.
at::Tensor bf16_probabilities(const at::Tensor& logits_TE) { return at::softmax(logits_TE.to(at::kBFloat16), -1).to(at::kFloat); }

MOECHECK_REGISTER_FAULT({
    {"softmax_in_bf16", "M07, ViperEkura/AstrAI#57", "the router's softmax is taken in bf16 before the top-k: some tokens get another expert",
     "probabilities", "impl=ep_allreduce model=qwen3_moe mesh=ep=2 dtype=fp32 tokens=997",
     {{"routing_ties", "router/ids_TK", 0, 1}, {"routing_ties", "router/ids_TK", 1, 1}}},
    [](Seams& seams) { seams.probabilities = bf16_probabilities; },
});

}  // namespace
}  // namespace moecheck::parallel_impls
