// Loads a rank's slices of the layer's parameters from a Hugging Face checkpoint, as a parallel plan says.
#pragma once

#include <filesystem>

#include "parallel_impls/layer/layer.h"

namespace moecheck::parallel_impls {

// Reads only the slices that the rank keeps. Taps param/*, with the cuts that were applied.
// Errors: FileFailure for a missing, damaged or misshapen tensor, with file and name.
LoadedLayer load_hf_checkpoint(const std::filesystem::path& folder, const Plan& plan, LayerContext& context, Tapper& tapper);

}  // namespace moecheck::parallel_impls
