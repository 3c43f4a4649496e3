// Shared objects whose table the host has to refuse, or to take although it is old: MOECHECK_ODD says which. None of them is opened but
// the smaller one, whose layer says that it supports nothing.
#include <cstddef>

#include <moecheck_plugin.h>

namespace {

[[maybe_unused]] const char* describe() {
  return R"({"name": "odd", "implementations": [{"name": "odd", "mesh_dims": ["ep"], "experts_backends": ["eager"]}],
             "dtypes": ["fp32"], "phases": ["load", "forward"]})";
}
[[maybe_unused]] const char* describe_badly() { return "{\"name\": 7}"; }
[[maybe_unused]] const char* describe_backward() {
  return R"({"name": "odd", "implementations": [{"name": "odd", "mesh_dims": [], "experts_backends": ["eager"]}],
             "dtypes": ["fp32"], "phases": ["load", "forward", "backward"]})";
}
[[maybe_unused]] const char* message(const MoecheckLayer*) { return "the odd one opens nothing"; }
[[maybe_unused]] MoecheckStatus open(const MoecheckCase*, const MoecheckHost*, MoecheckLayer**) { return MOECHECK_UNSUPPORTED; }
[[maybe_unused]] MoecheckStatus load(MoecheckLayer*, const char*) { return MOECHECK_ERROR; }
[[maybe_unused]] MoecheckStatus forward(MoecheckLayer*, const DLTensor*, DLTensor*) { return MOECHECK_ERROR; }
[[maybe_unused]] void close(MoecheckLayer*) {}

}  // namespace

#define ODD_TABLE(size, version, description) \
  extern "C" const MoecheckPlugin* moecheck_plugin() { \
    static const MoecheckPlugin plugin = {size, version, description, message, open, load, forward, close, nullptr, nullptr}; \
    return &plugin; \
  }

#if MOECHECK_ODD == 1   // of a later version
ODD_TABLE(sizeof(MoecheckPlugin) + 8, MOECHECK_PLUGIN_ABI_VERSION + 1, describe)
#elif MOECHECK_ODD == 2   // larger than its version is
ODD_TABLE(sizeof(MoecheckPlugin) + 8, MOECHECK_PLUGIN_ABI_VERSION, describe)
#elif MOECHECK_ODD == 3   // ends before close
ODD_TABLE(offsetof(MoecheckPlugin, close), MOECHECK_PLUGIN_ABI_VERSION, describe)
#elif MOECHECK_ODD == 4   // ends after close, as an older one may
ODD_TABLE(offsetof(MoecheckPlugin, backward), MOECHECK_PLUGIN_ABI_VERSION, describe)
#elif MOECHECK_ODD == 5
ODD_TABLE(sizeof(MoecheckPlugin), MOECHECK_PLUGIN_ABI_VERSION, describe_badly)
#elif MOECHECK_ODD == 6   // says more than its table has
ODD_TABLE(sizeof(MoecheckPlugin), MOECHECK_PLUGIN_ABI_VERSION, describe_backward)
#elif MOECHECK_ODD == 7
extern "C" const MoecheckPlugin* moecheck_plugin() { return nullptr; }
#endif   // 0: without the symbol
