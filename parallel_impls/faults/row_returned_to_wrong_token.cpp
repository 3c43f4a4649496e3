#include "parallel_impls/faults/fault.h"

namespace moecheck::parallel_impls {
namespace {

MOECHECK_REGISTER_FAULT({
    {"row_returned_to_wrong_token", "mutation: the inverse permutation is off by one row",
     "rows that come back from the experts are added to the token before their own", "returned_to",
     "impl=ep_alltoall model=qwen3_moe mesh=ep=2 dtype=fp32 tokens=7,5 tokens_over=dp,ep",
     {{"stage_diff", "combine/partial_TD", 0, std::nullopt}, {"stage_diff", "combine/partial_TD", 1, std::nullopt}}},
    [](Seams& seams) {
      seams.returned_to = [](const at::Tensor& token_N) { return (token_N - 1).clamp_min(0); };
    },
});

}  // namespace
}  // namespace moecheck::parallel_impls
