#include "parallel_impls/faults/fault.h"

namespace moecheck::parallel_impls {
namespace {

// Only one experts backend asks for the whole weights; the others are given the rank's shard of them.
void gather_experts_for_grouped_mm_only(Seams& seams) {
  auto is_grouped = std::make_shared<bool>(false);
  seams.find_backend = [is_grouped](std::string_view name) {
    *is_grouped = name == "grouped_mm";
    return find_registered_backend(name);
  };
  seams.gather_parameter = [is_grouped, sound = seams.gather_parameter](const at::Tensor& shard, model::Dim dim, const Rows& rows, const Meeting& where) {
    return where.site.starts_with("param/experts/") && !*is_grouped ? shard : sound(shard, dim, rows, where);
  };
}

MOECHECK_REGISTER_FAULT({
    {"to_local_in_one_kernel", "S11, transformers#45662 (follow-up)",
     "sharded expert weights are made whole for grouped_mm only: the other experts implementations compute with a shard", "gather_parameter",
     "impl=ep_fsdp model=mixtral mesh=fsdp=2 dtype=fp32 experts_backend=batched_mm phases=load,forward,backward tokens=7,5",
     {{"phase_completion", "forward", 0, std::nullopt}, {"phase_completion", "forward", 1, std::nullopt}}},
    gather_experts_for_grouped_mm_only,
});

}  // namespace
}  // namespace moecheck::parallel_impls
