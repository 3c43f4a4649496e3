#include "parallel_impls/faults/fault.h"

namespace moecheck::parallel_impls {
namespace {

MOECHECK_REGISTER_FAULT({
    {"token_counters_not_restored", "R6, mutation",
     "buffers that no optimizer owns are not loaded: the counters of routed rows, on which a router bias would rest, begin at 0", "is_restored",
     "impl=ep_allreduce model=mixtral mesh=ep=2 dtype=bf16 steps=3 save=sharded save_after=2 restart=ep=2 phases=load,forward,backward,step",
     {{"checkpoint_census", "state/tokens_E", std::nullopt, std::nullopt}, {"resume_determinism", "state/tokens_E", 0, std::nullopt},
      {"resume_determinism", "state/tokens_E", 1, std::nullopt}}},
    [](Seams& seams) {
      seams.is_restored = [](std::string_view tensor) { return tensor != "state/tokens_E"; };
    },
});

}  // namespace
}  // namespace moecheck::parallel_impls
