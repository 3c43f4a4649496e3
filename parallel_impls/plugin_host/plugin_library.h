// A native plug-in, found and held against this build's version of the ABI.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "harness/base/result.h"
#include "harness/subject/protocol.h"
#include "parallel_impls/external/plugin/moecheck_plugin.h"
#include "parallel_impls/layer/layer.h"

namespace moecheck::parallel_impls {

struct PluginLibrary {
  MoecheckPlugin table;                 // what an older plug-in lacks is NULL
  subject::Capabilities capabilities;
  std::vector<std::string> heeds;       // knobs beside the plain ones that its layer looks at

  // Why the case is outside of what is declared; empty if it is inside.
  std::string refusal(const cases::Case& one) const;
};

// Loaded for good: code that was handed out may still run when a process ends.
// Errors: kUsage for a file that is no plug-in, or one of another version, with the path.
base::Result<std::shared_ptr<const PluginLibrary>> load_plugin(const std::filesystem::path& path);

// One for each of the plug-in's.
std::vector<Implementation> implementations_of(const std::shared_ptr<const PluginLibrary>& library);

}  // namespace moecheck::parallel_impls
