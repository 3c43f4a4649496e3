#include "parallel_impls/faults/fault.h"

namespace moecheck::parallel_impls {
namespace {

MOECHECK_REGISTER_FAULT({
    {"combine_not_reduced", "mutation: a collective dropped",
     "the all-reduce after the experts is missing: each rank goes on with its own partial sum", "combine",
     "impl=tp_sharded model=mixtral mesh=tp=3 dtype=fp32",
     {{"stage_diff", "output/y_TD", 0, std::nullopt}, {"replica_agreement", "output/y_TD", 1, std::nullopt}}},
    [](Seams& seams) {
      seams.combine = [](const at::Tensor& partial_TD, const Meeting&) { return partial_TD; };
    },
});

}  // namespace
}  // namespace moecheck::parallel_impls
