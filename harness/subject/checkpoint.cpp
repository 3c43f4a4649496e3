#include "harness/subject/checkpoint.h"

#include <fmt/format.h>

#include "harness/base/files.h"
#include "harness/inputs/generator.h"
#include "harness/trace/safetensors.h"

namespace moecheck::subject {

std::string checkpoint_key(const model::Problem& problem) {
  const model::ModelSpec& m = problem.model;
  // The router's weight depends on the routing pattern only by its kind: natural, one-hot with noise, one-hot.
  std::string_view router = "natural";
  if (inputs::is_designed(problem)) router = problem.routing == model::Routing::kTies ? "ties" : "designed";
  return fmt::format("{}-E{}-K{}-D{}-F{}-{}-seed{}-values{}-{}", m.family, m.num_experts, m.top_k, m.d_model, m.d_ff,
                     base::knob_name(problem.dtype), problem.seed, static_cast<int>(problem.values), router);
}

base::Status write_checkpoint(const std::filesystem::path& folder, const model::Problem& problem) {
  const inputs::Generator generator(problem);
  const model::CheckpointNames& names = problem.model.names;
  std::vector<trace::NamedTensor> tensors = {{names.attention, generator.attention_DD()}, {names.router, generator.router_ED()}};
  for (model::Dim e = 0; e < problem.model.num_experts; ++e) {
    tensors.push_back({model::expert_tensor_name(names.gate, e), generator.gate_FD(e)});
    tensors.push_back({model::expert_tensor_name(names.up, e), generator.up_FD(e)});
    tensors.push_back({model::expert_tensor_name(names.down, e), generator.down_DF(e)});
  }
  if (auto made = base::make_folders(folder); !made) return made.error();
  return trace::write_safetensors(folder / kCheckpointFile, tensors, {{"format", "pt"}});
}

}  // namespace moecheck::subject
