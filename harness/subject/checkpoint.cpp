#include "harness/subject/checkpoint.h"

#include <algorithm>

#include <fmt/format.h>

#include "harness/base/files.h"
#include "harness/base/json.h"
#include "harness/inputs/generator.h"
#include "harness/trace/safetensors.h"

namespace moecheck::subject {
namespace {

std::vector<Weight> expert_weights(const model::ModelSpec& m, Dim e) {
  return {{model::expert_tensor_name(m.names.gate, e), WeightPart::kGate, e, {m.d_ff, m.d_model}},
          {model::expert_tensor_name(m.names.up, e), WeightPart::kUp, e, {m.d_ff, m.d_model}},
          {model::expert_tensor_name(m.names.down, e), WeightPart::kDown, e, {m.d_model, m.d_ff}}};
}

std::vector<Weight> weights_of(const model::ModelSpec& m, cases::WeightLayout layout) {
  std::vector<Weight> weights = {{m.names.attention, WeightPart::kAttention, -1, {m.d_model, m.d_model}},
                                 {m.names.router, WeightPart::kRouter, -1, {m.num_experts, m.d_model}}};
  if (layout == cases::WeightLayout::kPacked) {
    const PackedNames packed = packed_names(m.names);
    weights.push_back({packed.gate_up, WeightPart::kPackedGateUp, -1, {m.num_experts, m.gate_up_rows(), m.d_model}});
    weights.push_back({packed.down, WeightPart::kPackedDown, -1, {m.num_experts, m.d_model, m.d_ff}});
    return weights;
  }
  for (Dim e = 0; e < m.num_experts; ++e) std::ranges::move(expert_weights(m, e), std::back_inserter(weights));
  return weights;
}

Dim elements(const std::vector<Weight>& weights) {
  Dim sum = 0;
  for (const Weight& weight : weights) sum += base::num_elements(weight.shape);
  return sum;
}

// Appends parts of one dtype, one after the other.
class Stack {
 public:
  Stack(base::DType dtype, base::Shape shape) : stack_(dtype, std::move(shape)) {}
  void push(const base::HostTensor& part) {
    std::ranges::copy(part.bytes(), stack_.mutable_bytes().begin() + static_cast<std::ptrdiff_t>(filled_));
    filled_ += part.num_bytes();
  }
  base::HostTensor take() { return std::move(stack_); }

 private:
  base::HostTensor stack_;
  std::size_t filled_ = 0;
};

base::HostTensor packed_weight(const inputs::Generator& generator, const Weight& weight) {
  Stack stack(generator.problem().dtype, weight.shape);
  for (Dim e = 0; e < weight.shape[0]; ++e) {
    if (weight.part == WeightPart::kPackedDown) {
      stack.push(generator.down_DF(e));
    } else {
      stack.push(generator.gate_FD(e));
      stack.push(generator.up_FD(e));
    }
  }
  return stack.take();
}

base::HostTensor generated_weight(const inputs::Generator& generator, const Weight& weight) {
  switch (weight.part) {
    case WeightPart::kAttention: return generator.attention_DD();
    case WeightPart::kRouter: return generator.router_ED();
    case WeightPart::kGate: return generator.gate_FD(weight.expert);
    case WeightPart::kUp: return generator.up_FD(weight.expert);
    case WeightPart::kDown: return generator.down_DF(weight.expert);
    case WeightPart::kPackedGateUp:
    case WeightPart::kPackedDown: return packed_weight(generator, weight);
  }
  MOECHECK_REQUIRE(false, weight.name);
  return {};
}

}  // namespace

WeightForm weight_form(const cases::Checkpointing& checkpointing) { return {checkpointing.weights, checkpointing.weight_files}; }

PackedNames packed_names(const model::CheckpointNames& names) {
  return {model::packed_tensor_name(names.gate, "gate_up_proj"), model::packed_tensor_name(names.down, "down_proj")};
}

std::vector<WeightFile> weight_files(const model::Problem& problem, const WeightForm& form) {
  const std::vector<Weight> weights = weights_of(problem.model, form.layout);
  const Dim num_files = std::min(form.num_files, static_cast<Dim>(weights.size()));
  if (num_files == 1) return {{kCheckpointFile, weights}};
  const Dim total = elements(weights);
  std::vector<WeightFile> files;
  Dim dealt = 0;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const auto begun = static_cast<Dim>(files.size());
    const bool is_due = dealt >= total * begun / num_files;
    const bool is_needed = num_files - begun == static_cast<Dim>(weights.size() - i);   // one for each of the other files
    if (begun < num_files && (is_due || is_needed)) files.push_back({fmt::format("model-{:05}-of-{:05}.safetensors", begun + 1, num_files), {}});
    files.back().weights.push_back(weights[i]);
    dealt += base::num_elements(weights[i].shape);
  }
  return files;
}

base::Status write_weight_file(const std::filesystem::path& folder, const WeightFile& file, const WeightSource& weight) {
  std::vector<trace::NamedTensor> tensors;
  for (const Weight& one : file.weights) tensors.push_back({one.name, weight(one)});
  return trace::write_safetensors(folder / file.name, tensors, {{"format", "pt"}});
}

base::Status write_weight_index(const std::filesystem::path& folder, const std::vector<WeightFile>& files, base::DType dtype) {
  if (files.size() == 1) return base::Ok{};
  std::map<std::string, std::string> file_of;   // by name, as the index lists them
  Dim bytes = 0;
  for (const WeightFile& file : files) {
    bytes += elements(file.weights) * static_cast<Dim>(base::itemsize(dtype));
    for (const Weight& weight : file.weights) file_of.emplace(weight.name, file.name);
  }
  const base::Json index = {{"metadata", {{"total_size", bytes}}}, {"weight_map", file_of}};
  return base::write_file_atomically(folder / kCheckpointIndex, index.dump(2) + "\n");
}

std::string checkpoint_key(const model::Problem& problem, const WeightForm& form) {
  const model::ModelSpec& m = problem.model;
  // The router's weight depends on the routing pattern only by its kind: natural, one-hot with noise, one-hot.
  std::string_view router = "natural";
  if (inputs::is_designed(problem)) router = problem.routing == model::Routing::kTies ? "ties" : "designed";
  const std::string_view layout = form.layout == cases::WeightLayout::kPacked ? "packed" : "per_expert";
  return fmt::format("{}-E{}-K{}-D{}-F{}-{}-seed{}-values{}-{}-{}-files{}", m.family, m.num_experts, m.top_k, m.d_model, m.d_ff,
                     base::knob_name(problem.dtype), problem.seed, static_cast<int>(problem.values), router, layout, form.num_files);
}

base::Status write_checkpoint(const std::filesystem::path& folder, const model::Problem& problem, const WeightForm& form) {
  const inputs::Generator generator(problem);
  if (auto made = base::make_folders(folder); !made) return made.error();
  const std::vector<WeightFile> files = weight_files(problem, form);
  for (const WeightFile& file : files)
    if (auto written = write_weight_file(folder, file, [&](const Weight& weight) { return generated_weight(generator, weight); }); !written)
      return written.error();
  return write_weight_index(folder, files, problem.dtype);
}

}  // namespace moecheck::subject
