#include "parallel_impls/faults/fault.h"

namespace moecheck::parallel_impls {
namespace {

MOECHECK_REGISTER_FAULT({
    {"norm_lacks_experts", "O01, Megatron-LM#5916 and #6470",
     "the global norm counts the local experts only: each rank clips with a factor of its own", "norm_dims",
     "impl=ep_alltoall model=mixtral mesh=ep=2 dtype=fp32 tokens=7,5 tokens_over=dp,ep steps=2 clip_norm=1 phases=load,forward,backward,step",
     {{"optimizer", "optim/norm_1", 0, std::nullopt}, {"optimizer", "optim/norm_1", 1, std::nullopt}, {"replica_agreement", "optim/param/router/w_ED", 1, std::nullopt}}},
    [](Seams& seams) {
      seams.norm_dims = [](std::string_view, const std::vector<model::Cut>&) { return std::string(); };
    },
});

}  // namespace
}  // namespace moecheck::parallel_impls
