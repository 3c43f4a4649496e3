#include "parallel_impls/plugin_host/plugin_library.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <dlfcn.h>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "harness/base/json.h"
#include "harness/trace/tap_points.h"
#include "parallel_impls/plugin_host/plugin_layer.h"

namespace moecheck::parallel_impls {
namespace {

using base::Error;
using base::ErrorCode;
using base::Json;

constexpr const char* kSymbol = "moecheck_plugin";
// All that every version has.
constexpr std::size_t kLeastSize = offsetof(MoecheckPlugin, close) + sizeof(MoecheckPlugin::close);
const std::vector<std::string> kKnownPhases = {"load", "forward", "backward", "step", "save"};

// A knob that a layer may well not look at, and what it is in a plain one.
struct PlainKnob {
  std::string_view name;
  std::string_view value;
};
constexpr std::array<PlainKnob, 5> kPlain = {{{"recompute", "false"}, {"loader", "sliced"}, {"apply_scores", "after_experts"},
                                              {"softmax", "before_topk"}, {"expert_tp", "tp"}}};

Error refused(const std::filesystem::path& path, std::string why) { return {ErrorCode::kUsage, std::move(why), "plug-in " + path.string()}; }

base::Result<const MoecheckPlugin*> find_table(const std::filesystem::path& path) {
  std::error_code code;
  if (!std::filesystem::is_regular_file(path, code)) return refused(path, "there is no such file");
  // Absolute: a bare name would be looked for among the system's libraries.
  void* library = ::dlopen(std::filesystem::absolute(path).c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return refused(path, fmt::format("it cannot be loaded: {}", ::dlerror()));
  void* symbol = ::dlsym(library, kSymbol);
  if (symbol == nullptr) return refused(path, fmt::format("it does not export {}(), which moecheck_plugin.h declares", kSymbol));
  const MoecheckPlugin* table = reinterpret_cast<decltype(&moecheck_plugin)>(symbol)();
  if (table == nullptr) return refused(path, fmt::format("{}() returns NULL", kSymbol));
  return table;
}

std::string missing_member(const MoecheckPlugin& table) {
  if (table.describe == nullptr) return "describe";
  if (table.message == nullptr) return "message";
  if (table.open == nullptr) return "open";
  if (table.load == nullptr) return "load";
  if (table.forward == nullptr) return "forward";
  return table.close == nullptr ? "close" : "";
}

// A copy of this build's size.
base::Result<MoecheckPlugin> checked_table(const std::filesystem::path& path, const MoecheckPlugin& given) {
  if (given.abi_version > MOECHECK_PLUGIN_ABI_VERSION || given.abi_version == 0)
    return refused(path, fmt::format("it has version {} of the ABI, this build knows 1 to {}; rebuild it with this build's moecheck_plugin.h, or "
                                     "update moecheck", given.abi_version, MOECHECK_PLUGIN_ABI_VERSION));
  if (given.struct_size < kLeastSize || given.struct_size > sizeof(MoecheckPlugin))
    return refused(path, fmt::format("its MoecheckPlugin says {} bytes, this build takes {} to {}; set struct_size to sizeof(MoecheckPlugin)",
                                     given.struct_size, kLeastSize, sizeof(MoecheckPlugin)));
  MoecheckPlugin table{};
  std::memcpy(&table, &given, given.struct_size);
  if (const std::string missing = missing_member(table); !missing.empty()) return refused(path, fmt::format("its table has no {}", missing));
  return table;
}

std::string misfit(const subject::Capabilities& capabilities, const MoecheckPlugin& table) {
  if (capabilities.implementations.empty()) return "it describes no implementation";
  for (const std::string& phase : capabilities.phases)
    if (std::ranges::find(kKnownPhases, phase) == kKnownPhases.end()) return fmt::format("it describes a phase '{}', which there is not", phase);
  const auto has = [&](std::string_view phase) { return std::ranges::find(capabilities.phases, phase) != capabilities.phases.end(); };
  if (has("backward") && table.backward == nullptr) return "it describes the phase backward, and its table has none";
  if (has("step") && !has("backward")) return "it describes the phase step without backward";
  if (has("save") && table.step != nullptr) return "it describes the phase save beside a step of its own, whose state the host cannot save";
  return "";
}

// What the plug-in describes, as the protocol has it: the host's part is not the plug-in's to say.
Json protocol_description(Json json) {
  json["protocol"] = subject::kProtocol;
  json["devices"] = {"cpu"};
  json["weight_layouts"] = {"huggingface"};
  json["faults"] = Json::array();
  json["taps"] = Json::array();
  for (const trace::TapPoint& tap : trace::tap_points()) json["taps"].push_back(tap.name);
  return json;
}

base::Result<Json> description_of(const std::filesystem::path& path, const MoecheckPlugin& table) {
  const char* text = table.describe();
  if (text == nullptr) return refused(path, "describe() returns NULL");
  auto json = base::parse_json(text, "describe()");
  if (!json) return refused(path, json.error().text());
  if (!json->is_object()) return refused(path, "describe() is not a JSON object");
  return json;
}

base::Result<std::vector<std::string>> heeded_knobs(const std::filesystem::path& path, const Json& json) {
  std::vector<std::string> known = {"tokens_over", "routed_scale", "activation"};
  for (const PlainKnob& knob : kPlain) known.emplace_back(knob.name);
  std::vector<std::string> heeds;
  for (const Json& knob : json.value("heeds", Json::array())) {
    if (!knob.is_string() || std::ranges::find(known, knob.get<std::string>()) == known.end())
      return refused(path, fmt::format("it heeds {}, which is none of {}", knob.dump(), fmt::join(known, ", ")));
    heeds.push_back(knob.get<std::string>());
  }
  return heeds;
}

}  // namespace

std::string PluginLibrary::refusal(const cases::Case& one) const {
  if (std::string outside = capabilities.refusal(one); !outside.empty()) return outside;
  const auto is_heeded = [&](std::string_view knob) { return std::ranges::find(heeds, knob) != heeds.end(); };
  for (const auto& [name, value] : cases::config_of(one))
    for (const PlainKnob& knob : kPlain)
      if (knob.name == name && knob.value != value && !is_heeded(name)) return fmt::format("{} does not heed {}={}", one.impl, name, value);
  const model::ModelSpec& family = one.problem.model;
  if (family.routed_scale != 1 && !is_heeded("routed_scale"))
    return fmt::format("{} does not heed routed_scale: {} multiplies its scores by {}", one.impl, family.family, family.routed_scale);
  if (!family.activation.is_silu() && !is_heeded("activation"))
    return fmt::format("{} does not heed activation: that of {} is not silu", one.impl, family.family);
  for (const char* dim : {"ep", "tp"})
    if (one.problem.shards_tokens(dim) && !is_heeded("tokens_over"))
      return fmt::format("{} does not support tokens that are sharded over {}", one.impl, dim);
  return "";
}

base::Result<std::shared_ptr<const PluginLibrary>> load_plugin(const std::filesystem::path& path) {
  auto given = find_table(path);
  if (!given) return given.error();
  auto table = checked_table(path, **given);
  if (!table) return table.error();
  auto json = description_of(path, *table);
  if (!json) return json.error();
  auto heeds = heeded_knobs(path, *json);
  if (!heeds) return heeds.error();
  auto capabilities = subject::capabilities_from_json(protocol_description(*json));
  if (!capabilities) return refused(path, capabilities.error().text());
  if (const std::string why = misfit(*capabilities, *table); !why.empty()) return refused(path, why);
  return std::make_shared<const PluginLibrary>(PluginLibrary{*table, *capabilities, *heeds});
}

std::vector<Implementation> implementations_of(const std::shared_ptr<const PluginLibrary>& library) {
  std::vector<Implementation> all;
  for (const subject::ImplementationInfo& impl : library->capabilities.implementations)
    all.push_back({impl.name, impl.summary, impl.mesh_dims,
                   [library](LayerContext context) { return make_plugin_layer(library, std::move(context)); }});
  return all;
}

}  // namespace moecheck::parallel_impls
