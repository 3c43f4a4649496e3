#include "parallel_impls/faults/fault.h"

namespace moecheck::parallel_impls {
namespace {

// fully_shard is applied to the whole layer, and skips nothing that another mesh has cut.
std::vector<Style> with_fsdp_on_top(const Plan&, std::string_view parameter) {
  if (parameter == kGateUp || parameter == kDown) return {Style::kGroupedGemm, Style::kFsdp};
  return {Style::kFsdp};
}

MOECHECK_REGISTER_FAULT({
    {"fsdp_swallows_experts", "S09, transformers#45662",
     "fsdp wraps the whole layer and cuts the expert-parallel parameters again along the experts, as if they were any others", "styles_of",
     "impl=ep_fsdp model=mixtral mesh=fsdp=2,ep=2 dtype=bf16 tokens=7,5 tokens_over=dp,fsdp,ep",
     {{"placement", "param/experts/gate_up_EGD", 0, std::nullopt}, {"placement", "param/experts/down_EDF", 3, std::nullopt}}},
    [](Seams& seams) { seams.styles_of = with_fsdp_on_top; },
});

}  // namespace
}  // namespace moecheck::parallel_impls
