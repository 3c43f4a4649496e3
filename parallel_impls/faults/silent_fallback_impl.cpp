#include "parallel_impls/faults/fault.h"

namespace moecheck::parallel_impls {
namespace {

MOECHECK_REGISTER_FAULT({
    {"silent_fallback_impl", "S06, transformers#45473 (discussion)",
     "the experts backend that was asked for is not found, and eager runs in its place without a word", "find_backend",
     "impl=ep_allreduce model=mixtral mesh=ep=2 dtype=fp32 experts_backend=grouped_mm",
     {{"path_taken", "load", 0, std::nullopt}, {"path_taken", "load", 1, std::nullopt}}},
    [](Seams& seams) { seams.find_backend = [](std::string_view) { return find_registered_backend("eager"); }; },
});

}  // namespace
}  // namespace moecheck::parallel_impls
