// The Hugging Face style checkpoint of a problem: which tensors it has, which file holds each, and their bytes. The driver writes it for
// subjects that load one; a subject that saves its weights writes the same files.
//
//   one file        model.safetensors
//   two and more    model-00001-of-00002.safetensors, ... and model.safetensors.index.json, {"metadata": {"total_size": bytes},
//                   "weight_map": {name: file}}; tensors are dealt out in order, each file about as many bytes
//   per_expert      gate, up and down of each expert apart, by the family's names
//   packed          experts.gate_up_proj (E, 2F, D), gate rows before up rows, and experts.down_proj (E, D, F)
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "harness/base/host_tensor.h"
#include "harness/base/result.h"
#include "harness/cases/case.h"
#include "harness/model/problem.h"

namespace moecheck::subject {

using model::Dim;

inline constexpr const char* kCheckpointFile = "model.safetensors";
inline constexpr const char* kCheckpointIndex = "model.safetensors.index.json";

struct WeightForm {
  cases::WeightLayout layout = cases::WeightLayout::kPerExpert;
  Dim num_files = 1;
};
WeightForm weight_form(const cases::Checkpointing& checkpointing);

struct PackedNames {
  std::string gate_up;
  std::string down;
};
PackedNames packed_names(const model::CheckpointNames& names);

enum class WeightPart { kAttention, kRouter, kGate, kUp, kDown, kPackedGateUp, kPackedDown };

// A tensor of the checkpoint.
struct Weight {
  std::string name;
  WeightPart part = WeightPart::kAttention;
  Dim expert = -1;   // of kGate, kUp and kDown
  base::Shape shape;
};

struct WeightFile {
  std::string name;
  std::vector<Weight> weights;   // in the order in which they lie in it
};

// As many files as the form says, or as there are tensors, if these are fewer.
std::vector<WeightFile> weight_files(const model::Problem& problem, const WeightForm& form);

using WeightSource = std::function<base::HostTensor(const Weight&)>;

// Written aside and renamed. Memory: the tensors of the file. Errors: kIo.
base::Status write_weight_file(const std::filesystem::path& folder, const WeightFile& file, const WeightSource& weight);
// Does nothing for a single file, which is its own index. Errors: kIo.
base::Status write_weight_index(const std::filesystem::path& folder, const std::vector<WeightFile>& files, base::DType dtype);

// Equal keys: equal bytes. Names what of a problem reaches the weights, and how they lie, so that cases can share one checkpoint.
std::string checkpoint_key(const model::Problem& problem, const WeightForm& form);

// The generator's weights. Memory: one file.
// Errors: kIo; the folder then holds neither a model.safetensors nor an index.
base::Status write_checkpoint(const std::filesystem::path& folder, const model::Problem& problem, const WeightForm& form);

}  // namespace moecheck::subject
