#include <algorithm>
#include <map>
#include <memory>

#include <fmt/format.h>

#include "harness/base/nearest_name.h"
#include "harness/cases/fields.h"
#include "harness/scenario/load.h"
#include "harness/scenario/yaml_shape.h"

namespace moecheck::scenario {
namespace {

using base::Ok;
using base::Result;
using base::Status;
using model::Dim;
using model::ModelSpec;

constexpr std::string_view kExpertMark = "{e}";

// GPT-OSS (transformers, GptOssExperts).
constexpr double kSwigluOaiAlpha = 1.702;
constexpr double kSwigluOaiShift = 1;

// The map under `key` with all of `keys`, and perhaps some of `more`.
Result<const YamlNode*> section(const Source& source, const YamlNode& parent, std::string_view key, const std::vector<std::string>& keys,
                                const std::vector<std::string>& more = {}) {
  const YamlNode* map = find_value(parent, key);
  if (map == nullptr) return source.error_at(parent.spot, fmt::format("{} is missing", key));
  if (auto is_map = expect_map(source, *map, fmt::format("{} keys", key)); !is_map) return is_map.error();
  std::vector<std::string> known_keys = keys;
  known_keys.insert(known_keys.end(), more.begin(), more.end());
  if (auto known = check_keys(source, *map, known_keys); !known) return known.error();
  for (const std::string& name : keys)
    if (find_value(*map, name) == nullptr) return source.error_at(map->spot, fmt::format("{}.{} is missing", key, name));
  return map;
}

// The value of the knob `name` by the rules of the knob table, so that a family cannot hold what a scenario may not override.
Result<std::string> knob_in(const Source& source, const YamlNode& map, std::string_view name) {
  return knob_text(source, *cases::find_field(name), *find_value(map, name));
}

Status read_sizes(const Source& source, const YamlNode& root, ModelSpec& into) {
  auto sizes = section(source, root, "sizes", {"experts", "top_k", "d_model", "d_ff"});
  if (!sizes) return sizes.error();
  const std::pair<std::string_view, Dim*> targets[] = {
      {"experts", &into.num_experts}, {"top_k", &into.top_k}, {"d_model", &into.d_model}, {"d_ff", &into.d_ff}};
  for (const auto& [name, target] : targets) {
    auto text = knob_in(source, **sizes, name);
    if (!text) return text.error();
    *target = std::stoll(*text);
  }
  if (into.top_k > into.num_experts)
    return source.error_at(find_value(**sizes, "top_k")->spot,
                           fmt::format("top_k={} is more than experts={}", into.top_k, into.num_experts));
  return Ok{};
}

Status read_router(const Source& source, const YamlNode& root, ModelSpec& into) {
  auto router = section(source, root, "router", {"softmax", "renormalise"}, {"routed_scale"});
  if (!router) return router.error();
  cases::Case read;   // what the knobs of these names would set
  for (const std::string_view name : {"softmax", "renormalise"}) {
    auto text = knob_in(source, **router, name);
    if (!text) return text.error();
    if (auto set = cases::find_field(name)->set(read, *text); !set) return set.error();
  }
  into.score_function = read.problem.model.score_function;
  into.renormalise = read.problem.model.renormalise;
  if (const YamlNode* node = find_value(**router, "routed_scale"); node != nullptr) {
    auto scale = positive_of(source, *node, "routed_scale");
    if (!scale) return scale.error();
    into.routed_scale = *scale;
  }
  return Ok{};
}

// The value under `key`, one of `offered`.
Result<std::string> one_of(const Source& source, const YamlNode& map, std::string_view key, const std::vector<std::string>& offered) {
  const YamlNode& value = *find_value(map, key);
  auto text = text_of(source, value, key);
  if (text && std::ranges::find(offered, *text) == offered.end())
    return source.error_at(value.spot, fmt::format("{} '{}' is not offered{}", key, *text, base::suggestion(*text, offered)));
  return text;
}

// The closed set has one packing so far; naming it keeps a family's file complete when a second one comes.
Status read_experts(const Source& source, const YamlNode& root, ModelSpec& into) {
  auto experts = section(source, root, "experts", {"activation", "packing"}, {"limit"});
  if (!experts) return experts.error();
  auto activation = one_of(source, **experts, "activation", {"silu", "swiglu_oai"});
  if (!activation) return activation.error();
  if (auto packing = one_of(source, **experts, "packing", {"gate_up"}); !packing) return packing.error();
  const bool is_silu = *activation == "silu";
  if (!is_silu) into.activation = {.alpha = kSwigluOaiAlpha, .up_shift = kSwigluOaiShift};
  const YamlNode* limit_node = find_value(**experts, "limit");
  if (limit_node == nullptr) {
    if (is_silu) return Ok{};
    return source.error_at((*experts)->spot, "experts.limit is missing: where swiglu_oai clamps gate and up");
  }
  auto limit = positive_of(source, *limit_node, "limit");
  if (!limit) return limit.error();
  into.activation.limit = *limit;
  return Ok{};
}

Result<std::string> pattern_in(const Source& source, const YamlNode& map, std::string_view key, bool is_per_expert) {
  const YamlNode& node = *find_value(map, key);
  auto text = text_of(source, node, key);
  if (!text) return text.error();
  if (text->find_first_of(" \n") != std::string::npos)
    return source.error_at(node.spot, fmt::format("{}: a tensor name has no blanks", key));
  const auto mark = text->find(kExpertMark);
  if (is_per_expert && (mark == std::string::npos || text->find(kExpertMark, mark + 1) != std::string::npos))
    return source.error_at(node.spot,
                           fmt::format("{}: the name of an expert's tensor needs one {{e}}, the number of the expert", key));
  const std::string rest = mark == std::string::npos ? *text : text->substr(0, mark) + text->substr(mark + kExpertMark.size());
  if ((!is_per_expert && mark != std::string::npos) || rest.find_first_of("{}") != std::string::npos)
    return source.error_at(node.spot, fmt::format("{}: unexpected braces in '{}'", key, *text));
  return text;
}

Status read_checkpoint(const Source& source, const YamlNode& root, ModelSpec& into) {
  auto names = section(source, root, "checkpoint", {"router", "gate", "up", "down", "attention"});
  if (!names) return names.error();
  struct Target {
    std::string_view key;
    std::string* name;
    bool is_per_expert;
  };
  const Target targets[] = {{"router", &into.names.router, false}, {"gate", &into.names.gate, true}, {"up", &into.names.up, true},
                            {"down", &into.names.down, true},      {"attention", &into.names.attention, false}};
  for (const Target& target : targets) {
    auto pattern = pattern_in(source, **names, target.key, target.is_per_expert);
    if (!pattern) return pattern.error();
    for (const Target& earlier : targets)
      if (&earlier < &target && *earlier.name == *pattern)
        return source.error_at(find_value(**names, target.key)->spot,
                               fmt::format("{} has the name of {}", target.key, earlier.key));
    *target.name = std::move(*pattern);
  }
  return Ok{};
}

std::vector<std::string> families_in(const std::filesystem::path& models_dir) {
  std::vector<std::string> families;
  std::error_code ignored;  // a missing folder offers no families; the caller names the path
  for (const auto& entry : std::filesystem::directory_iterator(models_dir, ignored))
    if (entry.path().extension() == ".yaml") families.push_back(entry.path().stem().string());
  std::ranges::sort(families);
  return families;
}

}  // namespace

Result<ModelSpec> family_of(const YamlDocument& document) {
  const Source& source = document.source;
  const YamlNode& root = document.root;
  if (auto map = expect_map(source, root, "model keys"); !map) return map.error();
  if (auto version = check_version(source, root); !version) return version.error();
  auto known = check_keys(source, root, {"version", "family", "sizes", "router", "experts", "checkpoint"});
  if (!known) return known.error();
  ModelSpec spec;
  const YamlNode* family = find_value(root, "family");
  if (family == nullptr) return source.error_at(root.spot, "family is missing");
  auto name = knob_text(source, *cases::find_field("model"), *family);
  if (!name) return name.error();
  spec.family = std::move(*name);
  // The name is how scenarios find the file, so the two may not differ.
  if (const auto stem = std::filesystem::path(source.path).stem().string(); spec.family != stem)
    return source.error_at(family->spot,
                           fmt::format("family '{}' stands in the file of '{}'; the names must agree", spec.family, stem));
  if (auto sizes = read_sizes(source, root, spec); !sizes) return sizes.error();
  if (auto router = read_router(source, root, spec); !router) return router.error();
  if (auto experts = read_experts(source, root, spec); !experts) return experts.error();
  if (auto checkpoint = read_checkpoint(source, root, spec); !checkpoint) return checkpoint.error();
  return spec;
}

Result<ModelSpec> load_family(const std::filesystem::path& models_dir, std::string_view family) {
  const auto families = families_in(models_dir);
  if (std::ranges::find(families, family) == families.end())
    return base::Error{base::ErrorCode::kUsage,
                       fmt::format("no model family '{}' in {}{}", family, models_dir.string(), base::suggestion(family, families)),
                       ""};
  auto document = read_yaml(models_dir / fmt::format("{}.yaml", family));
  if (!document) return document.error();
  return family_of(*document);
}

cases::FamilyLoader family_loader(std::filesystem::path models_dir) {
  auto known = std::make_shared<std::map<std::string, ModelSpec, std::less<>>>();
  return [known, models_dir = std::move(models_dir)](std::string_view family) -> Result<ModelSpec> {
    if (const auto found = known->find(family); found != known->end()) return found->second;
    auto spec = load_family(models_dir, family);
    if (spec) known->emplace(family, *spec);
    return spec;
  };
}

}  // namespace moecheck::scenario
