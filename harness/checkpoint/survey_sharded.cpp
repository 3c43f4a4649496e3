// moecheck's own form: an index that states the range, replica and checksum of every shard.
#include <algorithm>
#include <set>

#include <fmt/format.h>

#include "harness/checkpoint/checksum.h"
#include "harness/checkpoint/coverage.h"
#include "harness/checkpoint/survey.h"

namespace moecheck::checkpoint {
namespace {

// Ranks that wrote each other's files, or on another mesh, before the index was made.
void check_writer(Checkpoint& checkpoint, const std::string& name) {
  const std::map<std::string, std::string>& metadata = checkpoint.opened.at(name).metadata;
  const auto rank = metadata.find("rank");
  if (rank != metadata.end() && name != fmt::format("rank{}.safetensors", rank->second))
    checkpoint.problems.push_back({name, "", fmt::format("says that rank {} wrote it", rank->second)});
  if (!checkpoint.problems.empty()) return;  // all files would say it of a mesh that is wrong in the index
  const auto mesh = metadata.find("mesh");
  if (mesh != metadata.end() && mesh->second != checkpoint.mesh.text())
    checkpoint.problems.push_back({name, "", fmt::format("is of mesh {}, {} says {}", mesh->second, kIndexFile, checkpoint.mesh.text())});
}

// Compares a file with its seal; one cause, one problem.
void check_seal(Checkpoint& checkpoint, StoredFile& file, const FileSeal& seal, const base::MappedFile& bytes) {
  file.checksum = checksum({bytes.data, bytes.size});
  if (file.size != seal.size) {
    checkpoint.problems.push_back(
        {file.name, "", fmt::format("has {} bytes, {} says {}: truncated, or of another save", file.size, kIndexFile, seal.size)});
  } else if (file.checksum != seal.checksum) {
    checkpoint.problems.push_back(
        {file.name, "", fmt::format("has checksum {}, {} says {}: damaged, or of another save", file.checksum, kIndexFile, seal.checksum)});
  } else {
    check_writer(checkpoint, file.name);
  }
}

std::string reason_for_extra(const std::string& file, const Index& index) {
  for (std::int64_t rank = index.world_size; rank < index.world_size + 4096; ++rank)
    if (file == rank_file(rank)) return fmt::format("is left over: {} has world_size {}", kIndexFile, index.world_size);
  return fmt::format("{} does not list it", kIndexFile);
}

// Files that are sound one by one and fit no seal: then it is the index that is of another save.
void check_index_is_of_these(Checkpoint& checkpoint, const Index& index) {
  std::size_t num_measured = 0;
  for (const StoredFile& file : checkpoint.files) {
    const auto seal = index.files.find(file.name);
    if (file.checksum.empty() || seal == index.files.end()) continue;
    if (file.checksum == seal->second.checksum) return;
    ++num_measured;
  }
  if (num_measured > 1)
    checkpoint.problems.insert(checkpoint.problems.begin(), {kIndexFile, "", "fits none of the files that are there: it is of another save, or they are"});
}

void check_files(Checkpoint& checkpoint, const Index& index) {
  const std::vector<std::string> there = files_ending(checkpoint.folder, ".safetensors");
  for (const std::string& name : there) {
    const auto seal = index.files.find(name);
    const auto bytes = open_file(checkpoint, name);
    if (seal == index.files.end()) {
      checkpoint.problems.push_back({name, "", reason_for_extra(name, index)});
    } else if (bytes) {  // else it is refused as it is
      check_seal(checkpoint, checkpoint.files.back(), seal->second, *bytes);
    }
  }
  for (const auto& [name, seal] : index.files)
    if (!std::ranges::binary_search(there, name)) checkpoint.problems.push_back({name, "", fmt::format("is not there, and {} lists it", kIndexFile)});
  check_index_is_of_these(checkpoint, index);
  for (const std::string& name : files_ending(checkpoint.folder, ".tmp"))
    checkpoint.problems.push_back({name, "", "is left of a save that did not finish"});
}

// The key is in its file as the index says.
void check_key(Checkpoint& checkpoint, const std::string& name, const ShardedTensor& tensor, const Shard& shard) {
  const auto opened = checkpoint.opened.find(shard.file);
  if (opened == checkpoint.opened.end()) return;  // said of the file already
  const auto found = opened->second.tensors.find(shard.key);
  if (found == opened->second.tensors.end()) {
    checkpoint.problems.push_back({shard.file, name, fmt::format("key '{}' is not in it, though {} says so", shard.key, kIndexFile)});
    return;
  }
  const base::HostTensor& part = found->second;
  if (part.dtype() != tensor.dtype || part.shape() != shard.box.shape)
    checkpoint.problems.push_back({shard.file, name, fmt::format("key '{}' is {} {}, {} says {} {}", shard.key, base::safetensors_name(part.dtype()),
                                                                base::shape_text(part.shape()), kIndexFile, base::safetensors_name(tensor.dtype),
                                                                base::shape_text(shard.box.shape))});
}

void check_keys(Checkpoint& checkpoint) {
  std::set<std::pair<std::string, std::string>> used;
  for (const auto& [name, tensor] : checkpoint.tensors)
    for (const Shard& shard : tensor.shards) {
      used.emplace(shard.file, shard.key);
      check_key(checkpoint, name, tensor, shard);
    }
  for (const auto& [file, opened] : checkpoint.opened)
    for (const auto& [key, tensor] : opened.tensors)
      if (!used.contains({file, key})) checkpoint.problems.push_back({file, key, fmt::format("is in no entry of {}", kIndexFile)});
}

// Requires: all keys are there.
void compare_replicas(Checkpoint& checkpoint) {
  for (const auto& [name, tensor] : checkpoint.tensors)
    for (const Shard& shard : tensor.shards) {
      if (shard.replica == 0) continue;
      const auto is_original = [&](const Shard& other) { return other.replica == 0 && other.box == shard.box; };
      const auto original = std::ranges::find_if(tensor.shards, is_original);
      const auto part_of = [&](const Shard& of) -> const base::HostTensor& { return checkpoint.opened.at(of.file).tensors.at(of.key); };
      if (!base::same_bytes(part_of(shard), part_of(*original)))
        checkpoint.problems.push_back({shard.file, name, fmt::format("replica {} of {} differs from replica 0 in {}", shard.replica,
                                                                     box_text(shard.box), original->file)});
    }
}

}  // namespace

void survey_sharded(Checkpoint& checkpoint) {
  checkpoint.form = Form::kSharded;
  const auto index = read_index(checkpoint.folder);
  if (!index) {
    checkpoint.problems.push_back({kIndexFile, "", index.error().message});
    for (const std::string& file : files_ending(checkpoint.folder, ".safetensors")) open_file(checkpoint, file);
    return;
  }
  checkpoint.world_size = index->world_size;
  checkpoint.mesh = index->mesh;
  checkpoint.tensors = index->tensors;
  checkpoint.problems = consistency_problems(*index);
  check_files(checkpoint, *index);
  check_keys(checkpoint);
  std::ranges::move(coverage_problems(*index), std::back_inserter(checkpoint.problems));
  if (checkpoint.problems.empty()) compare_replicas(checkpoint);
}

}  // namespace moecheck::checkpoint
