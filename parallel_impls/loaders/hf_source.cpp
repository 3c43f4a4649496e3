#include <algorithm>

#include "harness/checkpoint/checkpoint.h"
#include "harness/subject/checkpoint.h"
#include "harness/trace/layout.h"
#include "parallel_impls/layer/tensor_bridge.h"
#include "parallel_impls/loaders/slices.h"
#include "parallel_impls/loaders/source.h"

namespace moecheck::parallel_impls {
namespace {

using model::Dim;

constexpr std::size_t kProblemsTold = 3;

// Sound, or an exception that names the file.
checkpoint::Checkpoint open_sound(const std::filesystem::path& folder) {
  const std::filesystem::path expected = folder / subject::kCheckpointFile;
  auto found = checkpoint::survey(folder);
  if (!found) throw FileFailure(fmt::format("checkpoint {}: there is none: {}", expected.string(), found.error().text()));
  std::string problems;
  for (std::size_t i = 0; i < std::min(found->problems.size(), kProblemsTold); ++i) {
    const checkpoint::Problem& problem = found->problems[i];
    problems += fmt::format("{}{}", i == 0 ? "" : "; ", (folder / problem.text()).string());
  }
  if (!problems.empty()) throw FileFailure("checkpoint " + problems);
  if (found->form == checkpoint::Form::kSharded) throw FileFailure(fmt::format("checkpoint {}: there is none, but one of sharded form", expected.string()));
  return *std::move(found);
}

class HuggingFaceSource final : public Source {
 public:
  HuggingFaceSource(const std::filesystem::path& folder, const model::Problem& problem)
      : checkpoint_(open_sound(folder)), spec_(problem.model), packed_(subject::packed_names(spec_.names)) {}

  // What a model has to have is missing if it is not there.
  bool has(std::string_view name) const override { return std::ranges::find(kAllParams, name, param_tap) != std::end(kAllParams); }

  at::Tensor read(std::string_view name, const Kept& kept) const override {
    const auto param = std::ranges::find(kAllParams, name, param_tap);
    if (param == std::end(kAllParams)) throw FileFailure(fmt::format("checkpoint {} has weights only, no '{}'", checkpoint_.folder.string(), name));
    const base::Shape shape = trace::global_param_shape(spec_, name);
    if (!is_kept_inside(kept, shape))
      throw FileFailure(fmt::format("checkpoint {}: a rank wants more of '{}' than its shape {}", checkpoint_.folder.string(), name, base::shape_text(shape)));
    if (param->name == kAttention) return read_whole(spec_.names.attention, shape, kept);
    if (param->name == kRouter) return read_whole(spec_.names.router, shape, kept);
    const std::string& packed = param->name == kGateUp ? packed_.gate_up : packed_.down;
    if (checkpoint_.tensors.contains(packed)) return read_whole(packed, shape, kept);
    return read_experts(param->name, shape, kept);
  }

 private:
  static std::string param_tap(const ParamInfo& param) { return tap_of("param", param); }

  // A view into its file.
  base::HostTensor find(const std::string& name, const base::Shape& shape) const {
    const auto found = checkpoint_.tensors.find(name);
    if (found == checkpoint_.tensors.end())
      throw FileFailure(fmt::format("checkpoint {} has no tensor '{}'", (checkpoint_.folder / subject::kCheckpointFile).string(), name));
    if (found->second.shape != shape)
      throw FileFailure(fmt::format("checkpoint {}: tensor '{}' has shape {}, expected {}", (checkpoint_.folder / found->second.shards[0].file).string(),
                                    name, base::shape_text(found->second.shape), base::shape_text(shape)));
    return checkpoint::tensor_of(checkpoint_, name);
  }

  static at::Tensor empty_for(const Kept& kept, base::DType dtype) { return at::empty(kept_shape(kept), to_torch(dtype)); }

  at::Tensor read_whole(const std::string& name, const base::Shape& shape, const Kept& kept) const {
    const base::HostTensor tensor = find(name, shape);
    at::Tensor read = empty_for(kept, tensor.dtype());
    copy_overlap(read, kept, checkpoint::whole(shape), tensor);
    return read;
  }

  // Gate over up, or down alone; of each expert that is kept.
  at::Tensor read_experts(std::string_view param, const base::Shape& shape, const Kept& kept) const {
    const bool is_gate_up = param == kGateUp;
    at::Tensor read;
    const auto add = [&](const std::string& pattern, Dim expert, Dim first_row, Dim num_rows) {
      const base::HostTensor part = find(model::expert_tensor_name(pattern, expert), {num_rows, shape[2]});
      if (!read.defined()) read = empty_for(kept, part.dtype());
      if (read.scalar_type() != to_torch(part.dtype()))
        throw FileFailure(fmt::format("checkpoint {}: tensor '{}' has another dtype than the experts before it", checkpoint_.folder.string(),
                                      model::expert_tensor_name(pattern, expert)));
      const base::HostTensor of_expert(part.dtype(), {1, num_rows, shape[2]}, std::make_shared<base::HostTensor>(part), part.bytes().data());
      copy_overlap(read, kept, {{expert, first_row, 0}, of_expert.shape()}, of_expert);
    };
    for (const auto& [first, count] : kept[0])
      for (Dim e = first; e < first + count; ++e) {
        add(is_gate_up ? spec_.names.gate : spec_.names.down, e, 0, is_gate_up ? spec_.d_ff : shape[1]);
        if (is_gate_up) add(spec_.names.up, e, spec_.d_ff, spec_.d_ff);
      }
    return read.defined() ? read : empty_for(kept, find(spec_.names.router, {spec_.num_experts, spec_.d_model}).dtype());
  }

  checkpoint::Checkpoint checkpoint_;
  const model::ModelSpec& spec_;
  subject::PackedNames packed_;
};

}  // namespace

std::unique_ptr<Source> open_hf_source(const std::filesystem::path& folder, const model::Problem& problem) {
  return std::make_unique<HuggingFaceSource>(folder, problem);
}

}  // namespace moecheck::parallel_impls
