// The form of Hugging Face: an index that says which file holds which tensor.
#include <algorithm>
#include <set>

#include <fmt/format.h>

#include "harness/checkpoint/survey.h"

namespace moecheck::checkpoint {
namespace {

using WeightMap = std::map<std::string, std::string>;

base::Result<WeightMap> weight_map_of(const base::Json& json) {
  const auto damaged = [](const std::string& message) { return base::Error{base::ErrorCode::kDamaged, message, ""}; };
  const auto found = json.find("weight_map");
  if (found == json.end() || !found->is_object()) return damaged("has no weight_map");
  WeightMap files;
  for (const auto& [name, file] : found->items()) {
    if (!file.is_string() || !is_plain_file_name(file.get<std::string>()))
      return damaged(fmt::format("weight_map puts tensor '{}' in {}, which is no file of this folder", name, file.dump()));
    files.emplace(name, file.get<std::string>());
  }
  if (files.empty()) return damaged("weight_map is empty");
  return files;
}

void open_files(Checkpoint& checkpoint, const WeightMap& map, const std::string& index_file) {
  std::set<std::string> named;
  for (const auto& [name, file] : map) named.insert(file);
  const std::vector<std::string> there = files_ending(checkpoint.folder, ".safetensors");
  for (const std::string& file : there) {
    open_file(checkpoint, file);
    if (!named.contains(file)) checkpoint.problems.push_back({file, "", fmt::format("{} does not name it", index_file)});
  }
  for (const std::string& file : named)
    if (!std::ranges::binary_search(there, file)) checkpoint.problems.push_back({file, "", fmt::format("is not there, and {} names it", index_file)});
}

void take_tensors(Checkpoint& checkpoint, const WeightMap& map, const std::string& index_file) {
  for (const auto& [name, file] : map) {
    const auto opened = checkpoint.opened.find(file);
    if (opened == checkpoint.opened.end()) continue;  // said of the file already
    const auto tensor = opened->second.tensors.find(name);
    if (tensor == opened->second.tensors.end()) {
      checkpoint.problems.push_back({file, name, fmt::format("is not in it, though {} says so", index_file)});
      continue;
    }
    const base::Shape& shape = tensor->second.shape();
    checkpoint.tensors.emplace(name, ShardedTensor{tensor->second.dtype(), shape, {{file, name, whole(shape), 0}}});
  }
  for (const auto& [file, opened] : checkpoint.opened)
    for (const auto& [name, tensor] : opened.tensors) {
      const auto entry = map.find(name);
      if (entry == map.end()) checkpoint.problems.push_back({file, name, fmt::format("is in no entry of {}", index_file)});
      if (entry != map.end() && entry->second != file)
        checkpoint.problems.push_back({file, name, fmt::format("is in it, and {} puts it in {}", index_file, entry->second)});
    }
}

void check_total_size(Checkpoint& checkpoint, const base::Json& json, const std::string& index_file) {
  const auto metadata = json.find("metadata");
  if (metadata == json.end() || !metadata->is_object()) return;
  const auto total = metadata->find("total_size");
  if (total == metadata->end()) return;
  if (!total->is_number()) {
    checkpoint.problems.push_back({index_file, "", "metadata.total_size is not a number"});
    return;
  }
  std::uint64_t bytes = 0;
  for (const auto& [name, tensor] : checkpoint.tensors)
    bytes += static_cast<std::uint64_t>(base::num_elements(tensor.shape)) * base::itemsize(tensor.dtype);
  // Some writers store it as a floating-point number.
  if (total->get<double>() != static_cast<double>(bytes))
    checkpoint.problems.push_back({index_file, "", fmt::format("metadata.total_size is {}, the tensors have {} bytes", total->dump(), bytes)});
}

}  // namespace

void survey_indexed(Checkpoint& checkpoint, const std::string& index_file) {
  checkpoint.form = Form::kIndexed;
  auto json = read_strict_json(checkpoint.folder / index_file);
  auto map = json ? weight_map_of(*json) : base::Result<WeightMap>(json.error());
  if (!map) {
    checkpoint.problems.push_back({index_file, "", map.error().message});
    for (const std::string& file : files_ending(checkpoint.folder, ".safetensors")) open_file(checkpoint, file);
    take_whole_tensors(checkpoint);
    return;
  }
  open_files(checkpoint, *map, index_file);
  take_tensors(checkpoint, *map, index_file);
  // A sum over what is missing would only repeat what is said above.
  if (checkpoint.problems.empty()) check_total_size(checkpoint, *json, index_file);
}

}  // namespace moecheck::checkpoint
