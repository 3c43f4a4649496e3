// Damages to what an index.json says: each a change of one field, written as a bad writer would have written it, or by hand.
#include <fmt/format.h>

#include "harness/checkpoint/format.h"
#include "tests/unit/checkpoint/damages.h"

namespace moecheck::checkpoint {
namespace {

using base::Json;

// Any member of an object or list; its key or number too.
std::pair<std::string, Json*> any_member(Json& json, Draw& draw) {
  auto member = json.begin();
  std::advance(member, static_cast<std::ptrdiff_t>(draw.below(json.size())));
  return {json.is_object() ? member.key() : std::to_string(member - json.begin()), &*member};
}

std::string change_number(Json& number, Draw& draw) {
  const auto before = number.get<std::int64_t>();
  number = draw.coin() ? before + 1 : before - 1;
  return fmt::format("{} -> {}", before, number.dump());
}

std::string change_a_size(Json& sizes, Draw& draw) {
  if (sizes.empty()) {
    sizes.push_back(1);
    return "one dimension more";
  }
  if (draw.below(4) == 0) {
    sizes.erase(sizes.size() - 1);
    return "one dimension less";
  }
  return change_number(*any_member(sizes, draw).second, draw);
}

// Of the index's other shards, or one that nothing has.
std::string change_name(Json& name, const std::vector<std::string>& others, Draw& draw) {
  const std::string before = name.get<std::string>();
  name = draw.below(4) == 0 ? before + "x" : draw.one_of(others);
  return fmt::format("{} -> {}", before, name.get<std::string>());
}

std::vector<std::string> values_of(const Json& json, const char* field) {
  std::vector<std::string> values;
  for (const Json& tensor : json["tensors"])
    for (const Json& shard : tensor["shards"]) values.push_back(shard[field]);
  return values;
}

std::string change_a_shard(Json& json, Draw& draw) {
  const auto [name, tensor] = any_member(json["tensors"], draw);
  const auto [number, shard] = any_member((*tensor)["shards"], draw);
  const std::string field = draw.one_of<std::string>({"offset", "shape", "replica", "key", "file"});
  Json& value = (*shard)[field];
  std::string change;
  if (field == "replica") change = change_number(value, draw);
  if (field == "offset" || field == "shape") change = change_a_size(value, draw);
  if (field == "key" || field == "file") change = change_name(value, values_of(json, field.c_str()), draw);
  return fmt::format("{} of shard {} of {}: {}", field, number, name, change);
}

std::string drop_a_shard(Json& json, Draw& draw) {
  const auto [name, tensor] = any_member(json["tensors"], draw);
  Json& shards = (*tensor)["shards"];
  const std::size_t number = draw.below(shards.size());
  shards.erase(number);
  return fmt::format("shard {} of {} dropped", number, name);
}

std::string repeat_a_shard(Json& json, Draw& draw) {
  const auto [name, tensor] = any_member(json["tensors"], draw);
  Json& shards = (*tensor)["shards"];
  const Json again = *any_member(shards, draw).second;
  shards.push_back(again);
  return fmt::format("a shard of {} twice", name);
}

std::string drop_a_tensor(Json& json, Draw& draw) {
  const std::string name = any_member(json["tensors"], draw).first;
  json["tensors"].erase(name);
  return name + " dropped";
}

std::string change_a_tensor(Json& json, Draw& draw) {
  const auto [name, tensor] = any_member(json["tensors"], draw);
  if (draw.coin()) return fmt::format("shape of {}: {}", name, change_a_size((*tensor)["shape"], draw));
  const std::string before = (*tensor)["dtype"];
  (*tensor)["dtype"] = draw.one_of<std::string>({"F32", "BF16", "F16", "I64", "F64", "I32", "F31"});
  return fmt::format("dtype of {}: {} -> {}", name, before, (*tensor)["dtype"].get<std::string>());
}

std::string change_a_seal(Json& json, Draw& draw) {
  const auto [file, seal] = any_member(json["files"], draw);
  if (draw.coin()) return fmt::format("size of {}: {}", file, change_number((*seal)["size"], draw));
  const auto other = any_member(json["files"], draw).second;
  (*seal)["checksum"] = (*other)["checksum"];
  return fmt::format("{} has the checksum of another", file);
}

std::string change_the_layout(Json& json, Draw& draw) {
  const std::size_t way = draw.below(4);
  if (way == 0) return "world_size: " + change_number(json["world_size"], draw);
  if (way == 1) return "version: " + change_number(json["version"], draw);
  if (way == 2) {
    json["mesh"] = draw.one_of<std::string>({"dp=4", "ep=4", "ep=2,dp=2", "dp=2,ep=4", "none", "ep"});
    return "mesh: " + json["mesh"].get<std::string>();
  }
  const std::string gone = any_member(json, draw).first;
  json.erase(gone);
  return gone + " dropped";
}

using Change = std::string (*)(Json& json, Draw& draw);

// Resealed: as a writer makes it that is wrong itself. Else: as an editor leaves it.
template <Change change, bool is_resealed>
Damage with(const Saves& saves, Draw& draw) {
  Damage result{"", saves.good, {saves.index}};
  // Sealed again it is a whole index, and where it does not fit a file, either may be the one that is wrong.
  if (is_resealed)
    for (const auto& [name, bytes] : saves.good) result.blamed.push_back(name);
  Json json = Json::parse(saves.good.at(saves.index));
  result.what = fmt::format("{}: {}{}", saves.index, change(json, draw), is_resealed ? ", sealed again" : "");
  std::string text = json.dump(1) + "\n";
  if (is_resealed)
    if (const auto index = index_from_json(json, "")) text = index_text(*index);
  result.files[saves.index] = text;
  return result;
}

// Every member as it was; the text is another.
Damage rewrite(const Saves& saves, Draw& draw) {
  Damage result{"", saves.good, {saves.index}};
  std::string& text = result.files[saves.index];
  const Json json = Json::parse(text);
  const int indent = static_cast<int>(draw.below(5)) - 1;
  text = json.dump(indent) + std::string(draw.below(3), '\n');
  result.what = fmt::format("{}: rewritten with indent {}", saves.index, indent);
  return result;
}

constexpr DamageKind kIndexDamages[] = {
    {"a shard edited", with<change_a_shard, false>}, {"a shard wrong", with<change_a_shard, true>},
    {"a shard removed", with<drop_a_shard, false>}, {"a shard left out", with<drop_a_shard, true>},
    {"a shard copied", with<repeat_a_shard, false>}, {"a shard twice", with<repeat_a_shard, true>},
    {"a tensor removed", with<drop_a_tensor, false>}, {"a tensor left out", with<drop_a_tensor, true>},
    {"a tensor edited", with<change_a_tensor, false>}, {"a tensor wrong", with<change_a_tensor, true>},
    {"a seal edited", with<change_a_seal, false>}, {"a seal wrong", with<change_a_seal, true>},
    {"the layout edited", with<change_the_layout, false>}, {"the layout wrong", with<change_the_layout, true>},
    {"rewritten", rewrite}};

}  // namespace

std::span<const DamageKind> index_damages() { return kIndexDamages; }

}  // namespace moecheck::checkpoint
