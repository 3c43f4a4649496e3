#include "harness/trace/safetensors.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <set>

#include <fmt/format.h>

#include "harness/base/files.h"
#include "harness/base/json.h"

namespace moecheck::trace {
namespace {

using base::DType;
using base::Error;
using base::ErrorCode;
using base::HostTensor;
using base::Json;
using base::Result;
using base::Shape;

constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;  // the limit of the format's own implementation
constexpr std::size_t kHeaderAlignment = 8;

struct Entry {
  std::string name;
  DType dtype;
  Shape shape;
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};

struct Header {
  std::vector<Entry> entries;
  std::map<std::string, std::string> metadata;
};

// nlohmann keeps the last of duplicate keys silently; a callback sees them all.
Result<Json> parse_without_duplicates(std::string_view text) {
  std::vector<std::set<std::string>> open;
  std::string duplicate;
  const auto watch = [&](int, Json::parse_event_t event, Json& value) {
    if (event == Json::parse_event_t::object_start) open.emplace_back();
    if (event == Json::parse_event_t::object_end) open.pop_back();
    if (event == Json::parse_event_t::key && !open.back().insert(value.get<std::string>()).second)
      duplicate = value.get<std::string>();
    return true;
  };
  Json parsed = Json::parse(text, watch, false);
  if (parsed.is_discarded()) return Error{ErrorCode::kDamaged, "header is not valid JSON", ""};
  if (!duplicate.empty()) return Error{ErrorCode::kDamaged, fmt::format("header names '{}' twice", duplicate), ""};
  if (!parsed.is_object()) return Error{ErrorCode::kDamaged, "header is not a JSON object", ""};
  return parsed;
}

Result<Entry> parse_entry(const std::string& name, const Json& value) {
  const auto damaged = [&](std::string_view what) {
    return Error{ErrorCode::kDamaged, fmt::format("tensor '{}': {}", name, what), ""};
  };
  if (!value.is_object() || value.size() != 3 || !value.contains("dtype") || !value.contains("shape") ||
      !value.contains("data_offsets"))
    return damaged("needs exactly dtype, shape and data_offsets");
  if (!value["dtype"].is_string()) return damaged("dtype is not a string");
  const auto dtype = base::dtype_from_safetensors(value["dtype"].get<std::string>());
  if (!dtype) return damaged(fmt::format("dtype {} is not supported", value["dtype"].dump()));
  Entry entry{name, *dtype, {}, 0, 0};
  if (!value["shape"].is_array()) return damaged("shape is not a list");
  std::uint64_t bytes = base::itemsize(*dtype);
  for (const Json& size : value["shape"]) {
    if (!size.is_number_unsigned()) return damaged("shape has an entry that is not a whole number from 0 up");
    const auto n = size.get<std::uint64_t>();
    // Guarded before the product is formed; a zero anywhere makes the tensor empty.
    if (n > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) return damaged("shape is too large");
    if (n != 0 && bytes > std::numeric_limits<std::uint64_t>::max() / n) return damaged("shape is too large");
    bytes *= n;
    entry.shape.push_back(static_cast<std::int64_t>(n));
  }
  const Json& offsets = value["data_offsets"];
  if (!offsets.is_array() || offsets.size() != 2 || !offsets[0].is_number_unsigned() || !offsets[1].is_number_unsigned())
    return damaged("data_offsets is not a pair of whole numbers");
  entry.begin = offsets[0].get<std::uint64_t>();
  entry.end = offsets[1].get<std::uint64_t>();
  if (entry.end < entry.begin || entry.end - entry.begin != bytes)
    return damaged(fmt::format("data_offsets {} hold another size than shape {} in {}, which is {} bytes", offsets.dump(),
                               base::shape_text(entry.shape), value["dtype"].get<std::string>(), bytes));
  return entry;
}

Result<Header> parse_header(std::string_view text) {
  auto json = parse_without_duplicates(text);
  if (!json) return json.error();
  Header header;
  for (const auto& [name, value] : json->items()) {
    if (name == "__metadata__") {
      if (!value.is_object()) return Error{ErrorCode::kDamaged, "__metadata__ is not an object", ""};
      for (const auto& [key, text_value] : value.items()) {
        if (!text_value.is_string()) return Error{ErrorCode::kDamaged, fmt::format("__metadata__.{} is not a string", key), ""};
        header.metadata[key] = text_value.get<std::string>();
      }
      continue;
    }
    auto entry = parse_entry(name, value);
    if (!entry) return entry.error();
    header.entries.push_back(*entry);
  }
  return header;
}

// Sorted by offset the tensors must tile the data: no gap, no overlap, nothing behind.
base::Status check_tiling(std::vector<Entry> entries, std::uint64_t data_bytes) {
  std::ranges::sort(entries, [](const Entry& a, const Entry& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  std::uint64_t expected = 0;
  for (const Entry& entry : entries) {
    if (entry.begin != expected)
      return Error{ErrorCode::kDamaged,
                   fmt::format("tensor '{}' begins at byte {}, expected {}", entry.name, entry.begin, expected), ""};
    expected = entry.end;
  }
  if (expected != data_bytes)
    return Error{ErrorCode::kDamaged,
                 fmt::format("the header promises {} bytes of data, the file has {}{}", expected, data_bytes,
                             expected > data_bytes ? ": it is truncated; write or copy it again" : ""), ""};
  return base::Ok{};
}

Error in_file(Error error, const std::filesystem::path& path) {
  error.where = path.string();
  return error;
}

}  // namespace

Result<TensorFile> read_safetensors(const std::filesystem::path& path) {
  auto mapped = base::map_file(path);
  if (!mapped) return mapped.error();
  const std::shared_ptr<const base::MappedFile> file = *mapped;
  std::uint64_t header_bytes = 0;
  if (file->size < sizeof header_bytes)
    return Error{ErrorCode::kDamaged, fmt::format("{} bytes are too few for a safetensors file", file->size), path.string()};
  std::memcpy(&header_bytes, file->data, sizeof header_bytes);
  if (header_bytes > kMaxHeaderBytes || header_bytes > file->size - sizeof header_bytes)
    return Error{ErrorCode::kDamaged,
                 fmt::format("the header claims {} bytes, the file has {}", header_bytes, file->size - sizeof header_bytes),
                 path.string()};
  const char* text = reinterpret_cast<const char*>(file->data) + sizeof header_bytes;
  auto header = parse_header({text, static_cast<std::size_t>(header_bytes)});
  if (!header) return in_file(header.error(), path);
  const std::size_t data_at = sizeof header_bytes + static_cast<std::size_t>(header_bytes);
  if (auto tiled = check_tiling(header->entries, file->size - data_at); !tiled) return in_file(tiled.error(), path);
  TensorFile result;
  result.metadata = std::move(header->metadata);
  for (const Entry& entry : header->entries)
    result.tensors.emplace(entry.name, HostTensor(entry.dtype, entry.shape, file, file->data + data_at + entry.begin));
  return result;
}

base::Status write_safetensors(const std::filesystem::path& path, const std::vector<NamedTensor>& tensors,
                               const std::map<std::string, std::string>& metadata) {
  Json header = Json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::uint64_t offset = 0;
  for (const NamedTensor& named : tensors) {
    MOECHECK_REQUIRE(!header.contains(named.name), named.name);
    const std::uint64_t end = offset + named.tensor.num_bytes();
    header[named.name] = {{"dtype", base::safetensors_name(named.tensor.dtype())},
                          {"shape", named.tensor.shape()},
                          {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = header.dump();
  text.resize((text.size() + kHeaderAlignment - 1) / kHeaderAlignment * kHeaderAlignment, ' ');
  const std::uint64_t header_bytes = text.size();
  std::string size_field(sizeof header_bytes, '\0');
  std::memcpy(size_field.data(), &header_bytes, sizeof header_bytes);
  std::vector<std::string_view> parts = {size_field, text};
  for (const NamedTensor& named : tensors) {
    const auto bytes = named.tensor.bytes();
    parts.emplace_back(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  return base::write_file_atomically(path, parts);
}

}  // namespace moecheck::trace
