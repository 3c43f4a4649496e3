#include "harness/cli/inspect_output.h"

#include <map>
#include <set>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "harness/checkpoint/expert_census.h"
#include "harness/checkpoint/expert_names.h"
#include "harness/cli/text_table.h"

namespace moecheck::cli {
namespace {

using base::Json;
using checkpoint::Checkpoint;
using checkpoint::Shard;
using checkpoint::ShardedTensor;
using checkpoint::StoredFile;

std::size_t num_tensors_in(const Checkpoint& checkpoint, const std::string& file) {
  const auto opened = checkpoint.opened.find(file);
  return opened == checkpoint.opened.end() ? 0 : opened->second.tensors.size();
}

std::string title_text(const Checkpoint& checkpoint, const std::string& path) {
  if (checkpoint.form != checkpoint::Form::kSharded) return fmt::format("{}: {}\n", path, form_name(checkpoint.form));
  return fmt::format("{}: {}, {} ranks, mesh {}\n", path, form_name(checkpoint.form), checkpoint.world_size, checkpoint.mesh.text());
}

std::string files_text(const Checkpoint& checkpoint) {
  const auto experts = experts_by_file(checkpoint);
  std::vector<std::vector<std::string>> rows = {{"file", "bytes", "checksum", "tensors", "experts"}};
  for (const StoredFile& file : checkpoint.files) {
    const auto held = experts.find(file.name);
    rows.push_back({file.name, fmt::format("{}", file.size), file.checksum,
                    checkpoint.opened.contains(file.name) ? fmt::format("{}", num_tensors_in(checkpoint, file.name)) : "unreadable",
                    held == experts.end() ? "none" : checkpoint::experts_text(held->second)});
  }
  return text_table(rows);
}

// "[0:4, 0:48] rank0.safetensors, rank2.safetensors (replica 1)"; the range only where it is not the whole.
std::vector<std::string> places_of(const ShardedTensor& tensor) {
  std::vector<checkpoint::Box> order;
  std::map<checkpoint::Box, std::vector<std::string>> holders;
  for (const Shard& shard : tensor.shards) {
    if (!holders.contains(shard.box)) order.push_back(shard.box);
    holders[shard.box].push_back(shard.file + (shard.replica == 0 ? "" : fmt::format(" (replica {})", shard.replica)));
  }
  std::vector<std::string> places;
  for (const checkpoint::Box& box : order)
    places.push_back(fmt::format("{}{}", box == checkpoint::whole(tensor.shape) ? "" : box_text(box) + " ", fmt::join(holders[box], ", ")));
  if (places.empty()) places.emplace_back("nowhere");
  return places;
}

struct FoldedTensor {
  std::string name;   // of the first
  const ShardedTensor* tensor = nullptr;
  std::optional<checkpoint::ExpertName> expert;
  std::set<std::int64_t> numbers;

  std::string text() const { return numbers.size() < 2 ? name : checkpoint::folded_name(name, *expert, checkpoint::ranges_text(numbers)); }
};

// Experts of one part, dtype, shape and place share a row.
std::vector<FoldedTensor> folded_tensors(const Checkpoint& checkpoint) {
  std::vector<FoldedTensor> rows;
  std::map<std::string, std::size_t> known;
  for (const auto& [name, tensor] : checkpoint.tensors) {
    const auto expert = checkpoint::expert_name(name, tensor.shape);
    if (!expert || !expert->expert) {
      rows.push_back({name, &tensor, std::nullopt, {}});
      continue;
    }
    const std::string key = fmt::format("{} {} {} {}", checkpoint::folded_name(name, *expert, ""), base::safetensors_name(tensor.dtype),
                                        base::shape_text(tensor.shape), fmt::join(places_of(tensor), ";"));
    const auto [place, is_new] = known.try_emplace(key, rows.size());
    if (is_new) rows.push_back({name, &tensor, expert, {}});
    rows[place->second].numbers.insert(*expert->expert);
  }
  return rows;
}

std::string tensors_text(const Checkpoint& checkpoint) {
  std::vector<std::vector<std::string>> rows = {{"tensor", "dtype", "shape", "where"}};
  for (const FoldedTensor& row : folded_tensors(checkpoint)) {
    const std::vector<std::string> places = places_of(*row.tensor);
    rows.push_back({row.text(), std::string(base::safetensors_name(row.tensor->dtype)), base::shape_text(row.tensor->shape), places[0]});
    for (std::size_t i = 1; i < places.size(); ++i) rows.push_back({"", "", "", places[i]});
  }
  return rows.size() == 1 ? "" : text_table(rows);
}

std::string problems_text(const Checkpoint& checkpoint) {
  std::string text;
  for (const checkpoint::Problem& problem : checkpoint.problems) text += fmt::format("problem: {}\n", problem.text());
  return text;
}

std::string summary_text(const Checkpoint& checkpoint) {
  std::int64_t elements = 0;
  for (const auto& [name, tensor] : checkpoint.tensors) elements += base::num_elements(tensor.shape);
  const std::size_t count = checkpoint.problems.size();
  const std::string verdict = count == 0 ? "sound" : fmt::format("{} problem{}", count, count == 1 ? "" : "s");
  return fmt::format("{}: {} tensors, {} elements, {} file{}\n", verdict, checkpoint.tensors.size(), elements, checkpoint.files.size(),
                     checkpoint.files.size() == 1 ? "" : "s");
}

}  // namespace

Json inspect_json(const Checkpoint& checkpoint, const std::string& path) {
  const bool is_sharded = checkpoint.form == checkpoint::Form::kSharded;
  Json json = {{"schema", 1}, {"path", path}, {"form", form_name(checkpoint.form)}, {"is_sound", checkpoint.problems.empty()}};
  json["world_size"] = is_sharded ? Json(checkpoint.world_size) : Json(nullptr);
  json["mesh"] = is_sharded ? Json(checkpoint.mesh.text()) : Json(nullptr);
  auto experts = experts_by_file(checkpoint);
  json["files"] = Json::array();
  for (const StoredFile& file : checkpoint.files) {
    Json held = Json::object();
    for (const auto& [group, numbers] : experts[file.name]) held[group] = numbers;
    json["files"].push_back({{"name", file.name}, {"size", file.size}, {"checksum", file.checksum}, {"is_readable", checkpoint.opened.contains(file.name)},
                             {"tensors", num_tensors_in(checkpoint, file.name)}, {"experts", std::move(held)}});
  }
  json["tensors"] = Json::array();
  for (const auto& [name, tensor] : checkpoint.tensors) {
    Json shards = Json::array();
    for (const Shard& shard : tensor.shards)
      shards.push_back({{"file", shard.file}, {"key", shard.key}, {"offset", shard.box.offset}, {"shape", shard.box.shape}, {"replica", shard.replica}});
    json["tensors"].push_back({{"name", name}, {"dtype", base::safetensors_name(tensor.dtype)}, {"shape", tensor.shape}, {"shards", std::move(shards)}});
  }
  json["problems"] = Json::array();
  for (const checkpoint::Problem& problem : checkpoint.problems)
    json["problems"].push_back({{"file", problem.file}, {"tensor", problem.tensor}, {"message", problem.message}});
  return json;
}

std::string inspect_text(const Checkpoint& checkpoint, const std::string& path) {
  return title_text(checkpoint, path) + files_text(checkpoint) + tensors_text(checkpoint) + problems_text(checkpoint) + summary_text(checkpoint);
}

}  // namespace moecheck::cli
