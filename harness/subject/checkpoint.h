// The checkpoint that the driver writes for subjects that load one: model.safetensors in the family's Hugging Face layout.
#pragma once

#include <filesystem>
#include <string>

#include "harness/base/result.h"
#include "harness/model/problem.h"

namespace moecheck::subject {

inline constexpr const char* kCheckpointFile = "model.safetensors";

// Equal keys: equal bytes. Names what of a problem reaches the weights, so that cases can share one checkpoint.
std::string checkpoint_key(const model::Problem& problem);

// One tensor a parameter, gate, up and down of each expert apart. Memory: the whole checkpoint once.
// Errors: kIo; the folder then holds no model.safetensors.
base::Status write_checkpoint(const std::filesystem::path& folder, const model::Problem& problem);

}  // namespace moecheck::subject
