// A plug-in's layer as the session sees it: its calls, with the host's part around them.
#pragma once

#include <memory>

#include "parallel_impls/plugin_host/plugin_library.h"

namespace moecheck::parallel_impls {

// Registered parameters are shown, restored and saved, and stepped where the plug-in has no step of its own.
// Errors: Unsupported for a case outside of what the plug-in describes, and what its open says.
std::unique_ptr<Layer> make_plugin_layer(std::shared_ptr<const PluginLibrary> library, LayerContext context);

}  // namespace moecheck::parallel_impls
