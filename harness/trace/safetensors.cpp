#include "harness/trace/safetensors.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <set>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "harness/base/files.h"
#include "harness/base/json.h"

namespace moecheck::trace {
namespace {

using base::DType;
using base::Error;
using base::ErrorCode;
using base::HostTensor;
using base::Result;
using base::Shape;
// Not base::Json: its objects look a key up in linear time, and a header may name millions.
using Json = nlohmann::json;

constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;  // the limit of the format's own implementation
constexpr std::size_t kHeaderAlignment = 8;
constexpr std::size_t kMaxDepth = 3;                    // {"tensor": {"shape": [
constexpr std::size_t kMaxShownBytes = 120;             // of a name in a message
constexpr std::string_view kMetadataKey = "__metadata__";
constexpr std::string_view kJsonSpace = " \t\n\r";
constexpr auto kMaxTensorBytes = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
constexpr std::array kDTypes = {DType::kF32, DType::kF64, DType::kBF16, DType::kF16,
                                DType::kI64, DType::kI32, DType::kU8,   DType::kBool};

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

// A file's own words go to terminals and records: escaped, and cut where they are long.
std::string shown(const Json& value) {
  std::string text = value.dump(-1, ' ', true);
  if (value.is_string()) text = text.substr(1, text.size() - 2);
  if (text.size() > kMaxShownBytes) text = text.substr(0, kMaxShownBytes) + "...";
  return text;
}

Error damaged(std::string_view what) {
  return Error{ErrorCode::kDamaged, fmt::format("{}; the file was cut or changed, or its writer is wrong: write it again", what), ""};
}

Error damaged_tensor(const std::string& name, std::string_view what) {
  return damaged(fmt::format("tensor '{}': {}", shown(name), what));
}

// Thrown through the parser, which nothing else stops before the end of the text.
struct Refusal {
  std::string why;
};

// Sees what the parser lets pass: of two equal keys it keeps the last, and it nests as deep as the text says.
class HeaderWatch {
 public:
  void on(Json::parse_event_t event, const Json& value) {
    using Event = Json::parse_event_t;
    if (event == Event::object_start || event == Event::array_start) open_.emplace_back();
    if (event == Event::object_end || event == Event::array_end) open_.pop_back();
    if (open_.size() > kMaxDepth) throw Refusal{"the header nests deeper than a shape in a tensor's entry"};
    if (event == Event::key && !open_.back().insert(value.get<std::string>()).second)
      throw Refusal{fmt::format("the header names '{}' twice", shown(value))};
  }

 private:
  std::vector<std::set<std::string>> open_;  // keys so far of the objects and lists that are open
};

Result<Json> parse_strictly(std::string_view text) {
  text = text.substr(0, text.find_last_not_of(kJsonSpace) + 1);  // the format pads headers at their end
  if (!text.starts_with('{')) return damaged("the header does not begin with '{'");
  // The parser takes a zero byte for the end of its input, and would not see what follows.
  if (const auto zero = text.find('\0'); zero != std::string_view::npos)
    return damaged(fmt::format("the header is not valid JSON at byte {}, which is zero", zero));
  HeaderWatch watch;
  const auto callback = [&](int, Json::parse_event_t event, const Json& value) {
    watch.on(event, value);
    return true;
  };
  try {
    return Json::parse(text, callback);
  } catch (const Refusal& refusal) {
    return damaged(refusal.why);
  } catch (const Json::parse_error& e) {
    // Not e.what(), which repeats bytes that need not be UTF-8.
    return damaged(fmt::format("the header is not valid JSON at byte {}", e.byte));
  } catch (const Json::out_of_range&) {
    return damaged("the header has a number that is too large for any type");
  }
}

Result<DType> parse_dtype(const std::string& name, const Json& value) {
  if (!value.is_string()) return damaged_tensor(name, "dtype is not a string");
  if (const auto dtype = base::dtype_from_safetensors(value.get_ref<const std::string&>())) return *dtype;
  std::vector<std::string> known;
  for (const DType dtype : kDTypes) known.emplace_back(base::safetensors_name(dtype));
  return Error{ErrorCode::kDamaged,
               fmt::format("tensor '{}': dtype \"{}\" is not supported; store it as {}", shown(name), shown(value),
                           fmt::join(known, ", ")), ""};
}

// Every size is held against the limit before it is multiplied, so that nothing wraps around; sizes of 0 are left out of
// the product, so that the product of any of the sizes, as in strides, fits too.
Result<Shape> parse_shape(const std::string& name, const Json& value, std::size_t itemsize) {
  if (!value.is_array()) return damaged_tensor(name, "shape is not a list");
  Shape shape;
  std::uint64_t bytes = itemsize;
  for (const Json& size : value) {
    if (!size.is_number_unsigned()) return damaged_tensor(name, "shape has an entry that is not a whole number from 0 up");
    const auto n = size.get<std::uint64_t>();
    if (n > 1 && bytes > kMaxTensorBytes / n) return damaged_tensor(name, "shape is too large for 63 bits of bytes");
    bytes *= std::max<std::uint64_t>(n, 1);
    shape.push_back(static_cast<std::int64_t>(n));
  }
  return shape;
}

Result<Entry> parse_entry(const std::string& name, const Json& value) {
  if (!value.is_object() || value.size() != 3 || !value.contains("dtype") || !value.contains("shape") ||
      !value.contains("data_offsets"))
    return damaged_tensor(name, "its entry needs exactly dtype, shape and data_offsets");
  const auto dtype = parse_dtype(name, value["dtype"]);
  if (!dtype) return dtype.error();
  const auto shape = parse_shape(name, value["shape"], base::itemsize(*dtype));
  if (!shape) return shape.error();
  const Json& offsets = value["data_offsets"];
  if (!offsets.is_array() || offsets.size() != 2 || !offsets[0].is_number_unsigned() || !offsets[1].is_number_unsigned())
    return damaged_tensor(name, "data_offsets is not a pair of whole numbers from 0 up");
  const Entry entry{name, *dtype, *shape, offsets[0].get<std::uint64_t>(), offsets[1].get<std::uint64_t>()};
  const std::uint64_t bytes = static_cast<std::uint64_t>(base::num_elements(*shape)) * base::itemsize(*dtype);
  if (entry.end < entry.begin || entry.end - entry.begin != bytes)
    return damaged_tensor(name, fmt::format("data_offsets {} hold another size than shape {} in {}, which is {} bytes", shown(offsets),
                                            shown(value["shape"]), base::safetensors_name(*dtype), bytes));
  return entry;
}

Result<std::map<std::string, std::string>> parse_metadata(const Json& value) {
  if (!value.is_object()) return damaged("__metadata__ is not an object");
  std::map<std::string, std::string> metadata;
  for (const auto& [key, text] : value.items()) {
    if (!text.is_string()) return damaged(fmt::format("__metadata__.{} is not a string", shown(key)));
    metadata[key] = text.get<std::string>();
  }
  return metadata;
}

Result<Header> parse_header(std::string_view text) {
  const auto json = parse_strictly(text);
  if (!json) return json.error();
  Header header;
  for (const auto& [name, value] : json->items()) {
    if (name == kMetadataKey) {
      auto metadata = parse_metadata(value);
      if (!metadata) return metadata.error();
      header.metadata = std::move(*metadata);
      continue;
    }
    auto entry = parse_entry(name, value);
    if (!entry) return entry.error();
    header.entries.push_back(std::move(*entry));
  }
  return header;
}

// In the order of their offsets the tensors must tile the data: no gap, no overlap, nothing behind.
base::Status check_tiling(const std::vector<Entry>& entries, std::uint64_t data_bytes) {
  std::vector<const Entry*> in_order;
  for (const Entry& entry : entries) in_order.push_back(&entry);
  std::ranges::sort(in_order, {}, [](const Entry* entry) { return std::pair(entry->begin, entry->end); });
  std::uint64_t expected = 0;
  for (const Entry* entry : in_order) {
    if (entry->begin != expected)
      return damaged_tensor(entry->name, fmt::format("begins at byte {}, expected {}: {}", entry->begin, expected,
                                                     entry->begin < expected ? "it overlaps the one before" : "there is a gap"));
    expected = entry->end;
  }
  if (expected != data_bytes)
    return damaged(fmt::format("the header promises {} bytes of data, the file has {}: {}", expected, data_bytes,
                               expected > data_bytes ? "it is truncated" : "what follows belongs to no tensor"));
  return base::Ok{};
}

// Where the data begin, after the size field and the header.
Result<std::size_t> find_data(std::span<const std::byte> file) {
  std::uint64_t header_bytes = 0;
  if (file.size() < sizeof header_bytes) return damaged(fmt::format("{} bytes are too few for a safetensors file", file.size()));
  std::memcpy(&header_bytes, file.data(), sizeof header_bytes);
  if (header_bytes > kMaxHeaderBytes)
    return damaged(fmt::format("the header claims {} bytes, more than the {} that are allowed", header_bytes, kMaxHeaderBytes));
  if (header_bytes > file.size() - sizeof header_bytes)
    return damaged(fmt::format("the header claims {} bytes, the file has {}", header_bytes, file.size() - sizeof header_bytes));
  return sizeof header_bytes + static_cast<std::size_t>(header_bytes);
}

Error in_file(Error error, std::string_view where) {
  error.where = where;
  return error;
}

}  // namespace

Result<TensorFile> parse_safetensors(std::span<const std::byte> file, std::shared_ptr<const void> owner, std::string_view where) {
  const auto data_at = find_data(file);
  if (!data_at) return in_file(data_at.error(), where);
  const auto text = file.first(*data_at).subspan(sizeof(std::uint64_t));
  auto header = parse_header({reinterpret_cast<const char*>(text.data()), text.size()});
  if (!header) return in_file(header.error(), where);
  if (auto tiled = check_tiling(header->entries, file.size() - *data_at); !tiled) return in_file(tiled.error(), where);
  TensorFile result;
  result.metadata = std::move(header->metadata);
  for (const Entry& entry : header->entries)
    result.tensors.emplace(entry.name, HostTensor(entry.dtype, entry.shape, owner, file.data() + *data_at + entry.begin));
  return result;
}

Result<TensorFile> read_safetensors(const std::filesystem::path& path) {
  auto mapped = base::map_file(path);
  if (!mapped) return mapped.error();
  const std::shared_ptr<const base::MappedFile> file = *mapped;
  return parse_safetensors({file->data, file->size}, file, path.string());
}

std::string safetensors_header(const std::vector<NamedTensor>& tensors, const std::map<std::string, std::string>& metadata) {
  auto header = base::Json::object();
  if (!metadata.empty()) header[kMetadataKey] = metadata;
  std::uint64_t offset = 0;
  for (const NamedTensor& named : tensors) {
    MOECHECK_REQUIRE(named.name != kMetadataKey && !header.contains(named.name), named.name);
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
  return size_field + text;
}

base::Status write_safetensors(const std::filesystem::path& path, const std::vector<NamedTensor>& tensors,
                               const std::map<std::string, std::string>& metadata) {
  const std::string header = safetensors_header(tensors, metadata);
  std::vector<std::string_view> parts = {header};
  for (const NamedTensor& named : tensors) {
    const auto bytes = named.tensor.bytes();
    parts.emplace_back(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  return base::write_file_atomically(path, parts);
}

}  // namespace moecheck::trace
