#include <algorithm>

#include "parallel_impls/faults/fault.h"
#include "parallel_impls/loaders/sound_checkpoint_seams.h"

namespace moecheck::parallel_impls {
namespace {

// What a DTensor knows of: the mesh that fsdp made it on. That expert parallelism cut the parameter before is not in it.
at::Tensor full_tensor(const PlacedTensor& placed, Communicator& comm) {
  PlacedTensor known = placed;
  std::erase_if(known.cuts, [](const model::Cut& cut) { return !is_of_fsdp(cut); });
  return gather_over_cuts(known, comm);
}

MOECHECK_REGISTER_FAULT({
    {"gather_over_fsdp_only", "L03, modelscope/twinkle#116",
     "a consolidated save gathers over the fsdp dimension alone: the file has the experts of rank 0 and no others", "gather_whole",
     "impl=ep_fsdp model=mixtral mesh=fsdp=2,ep=2 dtype=bf16 tokens=7,5 tokens_over=dp,fsdp,ep save=huggingface",
     {{"checkpoint_census", "save", std::nullopt, 6}, {"comm_log", "param/experts/gate_up_EGD", 0, std::nullopt},
      {"comm_log", "param/experts/down_EDF", 3, std::nullopt}}},
    [](Seams& seams) { seams.gather_whole = full_tensor; },
});

}  // namespace
}  // namespace moecheck::parallel_impls
