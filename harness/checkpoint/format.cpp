#include "harness/checkpoint/format.h"

#include <algorithm>
#include <limits>
#include <set>
#include <span>

#include <fmt/format.h>

#include "harness/base/files.h"
#include "harness/checkpoint/checksum.h"

namespace moecheck::checkpoint {
namespace {

using base::Error;
using base::ErrorCode;
using base::Json;
using base::Result;
using base::Shape;

constexpr const char* kChecksumMember = "checksum";
constexpr int kIndent = 1;

// Of the text, so that it holds for names, order and numbers alike.
std::string checksum_of(const Json& json) {
  const std::string text = json.dump(kIndent);
  return checksum(std::as_bytes(std::span(text)));
}

Error damaged(const std::string& message) { return {ErrorCode::kDamaged, message, ""}; }

// The member, if it is there and `is_kind` likes it.
template <typename Kind>
const Json* member(const Json& object, const char* key, Kind is_kind) {
  const auto found = object.find(key);
  return found != object.end() && is_kind(*found) ? &*found : nullptr;
}

bool is_text(const Json& value) { return value.is_string(); }
bool is_object(const Json& value) { return value.is_object(); }
bool is_list(const Json& value) { return value.is_array(); }
// JSON that was built here holds signed numbers, a parsed one unsigned ones.
bool is_count(const Json& value) {
  if (!value.is_number_integer()) return false;
  if (!value.is_number_unsigned()) return value.get<std::int64_t>() >= 0;
  return value.get<std::uint64_t>() <= static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
}
bool is_counts(const Json& value) { return value.is_array() && std::ranges::all_of(value, is_count); }

// The bytes of a tensor, and so every product of its sizes, fit into 63 bits.
bool is_representable(const Shape& shape, base::DType dtype) {
  std::int64_t room = std::numeric_limits<std::int64_t>::max() / static_cast<std::int64_t>(base::itemsize(dtype));
  for (const std::int64_t size : shape) {
    if (size == 0) continue;
    if (size > room) return false;
    room /= size;
  }
  return true;
}

Result<Shard> shard_from_json(const Json& json) {
  if (!json.is_object()) return damaged("is not an object");
  const Json* file = member(json, "file", is_text);
  const Json* key = member(json, "key", is_text);
  const Json* offset = member(json, "offset", is_counts);
  const Json* shape = member(json, "shape", is_counts);
  const Json* replica = member(json, "replica", is_count);
  if (!file || !key || !offset || !shape || !replica) return damaged("needs file, key, offset, shape and replica");
  if (offset->size() != shape->size()) return damaged("has an offset and a shape of different lengths");
  return Shard{file->get<std::string>(), key->get<std::string>(), {offset->get<Shape>(), shape->get<Shape>()}, replica->get<std::int64_t>()};
}

Result<ShardedTensor> tensor_from_json(const Json& json) {
  if (!json.is_object()) return damaged("is not an object");
  const Json* dtype_name = member(json, "dtype", is_text);
  const Json* shape = member(json, "shape", is_counts);
  const Json* shards = member(json, "shards", is_list);
  if (!dtype_name || !shape || !shards) return damaged("needs dtype, shape and shards");
  const auto dtype = base::dtype_from_safetensors(dtype_name->get<std::string>());
  if (!dtype) return damaged(fmt::format("dtype {} is not known", dtype_name->dump()));
  ShardedTensor tensor{*dtype, shape->get<Shape>(), {}};
  if (!is_representable(tensor.shape, *dtype)) return damaged("shape is too large");
  for (std::size_t i = 0; i < shards->size(); ++i) {
    auto shard = shard_from_json((*shards)[i]);
    if (!shard) return damaged(fmt::format("shard {} {}", i, shard.error().message));
    tensor.shards.push_back(*std::move(shard));
  }
  return tensor;
}

// `json` is what `text` says, and `index` what `json` says.
base::Status check_text(const std::string& text, const Json& json, const Index& index) {
  const std::string expected = index_text(index);
  if (text == expected) return base::Ok{};
  const Json* stated = member(json, kChecksumMember, is_text);
  if (!stated) return damaged("has no checksum");
  const std::string measured = checksum_of(to_json(index));
  if (*stated != measured) return damaged(fmt::format("says that its checksum is {}, and has {}: damaged, or edited", stated->dump(), measured));
  const auto differs = std::ranges::mismatch(text, expected).in1 - text.begin();
  return damaged(fmt::format("has the content of its checksum, and is not as it was written from byte {} on: damaged, or edited", differs));
}

base::Status check_head(const Json& json) {
  const Json* format = member(json, "format", is_text);
  if (!format || *format != kShardedFormat) return damaged(fmt::format("format is not \"{}\"", kShardedFormat));
  const Json* version = member(json, "version", is_count);
  if (!version) return damaged("has no version");
  if (*version != kShardedVersion) return damaged(fmt::format("version is {}, this moecheck reads {}", version->dump(), kShardedVersion));
  return base::Ok{};
}

Result<Index> parse_index(const Json& json) {
  if (auto head = check_head(json); !head) return head.error();
  const Json* world_size = member(json, "world_size", is_count);
  const Json* mesh_text = member(json, "mesh", is_text);
  const Json* files = member(json, "files", is_object);
  const Json* tensors = member(json, "tensors", is_object);
  if (!world_size || !mesh_text || !files || !tensors) return damaged("needs world_size, mesh, files and tensors");
  auto mesh = model::Mesh::parse(mesh_text->get<std::string>());
  if (!mesh) return damaged("mesh: " + mesh.error().message);
  Index index{world_size->get<std::int64_t>(), *std::move(mesh), {}, {}};
  for (const auto& [name, value] : files->items()) {
    const Json* size = member(value, "size", is_count);
    const Json* sum = member(value, "checksum", is_text);
    if (!size || !sum) return damaged(fmt::format("file '{}' needs size and checksum", name));
    if (!is_plain_file_name(name)) return damaged(fmt::format("file '{}' does not name a file of this folder", name));
    index.files.emplace(name, FileSeal{size->get<std::uint64_t>(), sum->get<std::string>()});
  }
  for (const auto& [name, value] : tensors->items()) {
    auto tensor = tensor_from_json(value);
    if (!tensor) return damaged(fmt::format("tensor '{}': {}", name, tensor.error().message));
    index.tensors.emplace(name, *std::move(tensor));
  }
  return index;
}

}  // namespace

std::string rank_file(std::int64_t rank) { return fmt::format("rank{}.safetensors", rank); }

bool is_plain_file_name(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos && name.find('\0') == std::string::npos;
}

Json to_json(const Index& index) {
  Json json = {{"format", kShardedFormat}, {"version", kShardedVersion}, {"world_size", index.world_size}, {"mesh", index.mesh.text()}};
  json["files"] = Json::object();
  for (const auto& [name, seal] : index.files) json["files"][name] = {{"size", seal.size}, {"checksum", seal.checksum}};
  json["tensors"] = Json::object();
  for (const auto& [name, tensor] : index.tensors) {
    Json shards = Json::array();
    for (const Shard& shard : tensor.shards)
      shards.push_back({{"file", shard.file}, {"key", shard.key}, {"offset", shard.box.offset}, {"shape", shard.box.shape}, {"replica", shard.replica}});
    json["tensors"][name] = {{"dtype", base::safetensors_name(tensor.dtype)}, {"shape", tensor.shape}, {"shards", std::move(shards)}};
  }
  return json;
}

std::string index_text(const Index& index) {
  Json json = to_json(index);
  json[kChecksumMember] = checksum_of(json);
  return json.dump(kIndent) + "\n";
}

Result<Index> index_from_json(const Json& json, const std::string& where) {
  auto index = parse_index(json);
  if (!index) return Error{index.error().code, index.error().message, where};
  return index;
}

Result<Index> read_index(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / kIndexFile;
  const auto text = base::read_file(path);
  if (!text) return text.error();
  const auto json = parse_strict_json(*text, path.string());
  if (!json) return json.error();
  auto index = index_from_json(*json, path.string());
  if (!index) return index;
  if (auto intact = check_text(*text, *json, *index); !intact) return Error{intact.error().code, intact.error().message, path.string()};
  return index;
}

base::Status write_index(const std::filesystem::path& folder, Index index) {
  MOECHECK_REQUIRE(index.mesh.world_size() == index.world_size, index.mesh.text());
  index.files.clear();
  for (std::int64_t rank = 0; rank < index.world_size; ++rank) {
    const std::filesystem::path path = folder / rank_file(rank);
    auto sum = checksum_of_file(path);
    if (!sum) return sum.error();
    std::error_code code;
    const auto size = std::filesystem::file_size(path, code);
    if (code) return Error{ErrorCode::kIo, code.message(), path.string()};
    index.files.emplace(rank_file(rank), FileSeal{size, *std::move(sum)});
  }
  return base::write_file_atomically(folder / kIndexFile, index_text(index));
}

Result<Json> read_strict_json(const std::filesystem::path& path) {
  auto text = base::read_file(path);
  if (!text) return text.error();
  return parse_strict_json(*text, path.string());
}

Result<Json> parse_strict_json(const std::string& text, const std::string& where) {
  // nlohmann keeps the last of duplicate keys silently; a callback sees them all.
  std::vector<std::set<std::string>> open;
  std::string duplicate;
  const auto watch = [&](int, Json::parse_event_t event, Json& value) {
    if (event == Json::parse_event_t::object_start) open.emplace_back();
    if (event == Json::parse_event_t::object_end) open.pop_back();
    if (event == Json::parse_event_t::key && !open.back().insert(value.get<std::string>()).second) duplicate = value.get<std::string>();
    return true;
  };
  Json json = Json::parse(text, watch, false);
  if (json.is_discarded())  // this parser says at which byte
    if (auto plain = base::parse_json(text, where); !plain) return plain.error();
  if (!duplicate.empty()) return Error{ErrorCode::kDamaged, fmt::format("names '{}' twice", duplicate), where};
  if (!json.is_object()) return Error{ErrorCode::kDamaged, "is not a JSON object", where};
  return json;
}

}  // namespace moecheck::checkpoint
