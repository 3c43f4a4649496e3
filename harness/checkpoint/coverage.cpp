#include "harness/checkpoint/coverage.h"

#include <algorithm>
#include <iterator>
#include <set>

#include <fmt/format.h>

namespace moecheck::checkpoint {
namespace {

using Shards = std::vector<const Shard*>;

// Shards of replica 0 that share elements. By their first index, so that far apart ones need not be compared.
void find_overlaps(const std::string& name, Shards first_replicas, Problems& problems) {
  std::ranges::sort(first_replicas, {}, [](const Shard* shard) { return shard->box; });
  for (std::size_t i = 0; i < first_replicas.size(); ++i)
    for (std::size_t j = i + 1; j < first_replicas.size(); ++j) {
      const Box& a = first_replicas[i]->box;
      const Box& b = first_replicas[j]->box;
      if (!a.offset.empty() && b.offset[0] >= a.offset[0] + a.shape[0]) break;
      if (overlaps(a, b))
        problems.push_back({first_replicas[j]->file, name,
                            fmt::format("{} overlaps {} of {}, both of replica 0", box_text(b), box_text(a), first_replicas[i]->file)});
    }
}

void find_hole(const std::string& name, const ShardedTensor& tensor, const Shards& first_replicas, Problems& problems) {
  std::vector<Box> boxes;
  for (const Shard* shard : first_replicas) boxes.push_back(shard->box);
  if (const auto hole = first_hole(tensor.shape, boxes))
    problems.push_back(
        {kIndexFile, name, fmt::format("no shard of replica 0 holds {} of shape {}", box_text(*hole), base::shape_text(tensor.shape))});
}

void check_replicas(const std::string& name, const Shards& repeated, const std::set<Box>& first_boxes, Problems& problems) {
  std::set<std::pair<Box, std::int64_t>> seen;
  std::map<Box, std::int64_t> num_repeated;
  for (const Shard* shard : repeated) ++num_repeated[shard->box];
  for (const Shard* shard : repeated) {
    if (!first_boxes.contains(shard->box))
      problems.push_back(
          {shard->file, name, fmt::format("replica {} holds {}, which is no range of replica 0", shard->replica, box_text(shard->box))});
    if (shard->replica > num_repeated[shard->box])
      problems.push_back({shard->file, name, fmt::format("is replica {} of {}, which has {} replicas beside replica 0", shard->replica,
                                                        box_text(shard->box), num_repeated[shard->box])});
    if (!seen.emplace(shard->box, shard->replica).second)
      problems.push_back({shard->file, name, fmt::format("another file holds replica {} of {} too", shard->replica, box_text(shard->box))});
  }
}

// The tensor's name, or that with "#0", "#1", ... behind it.
bool is_key_of(std::string_view key, std::string_view name) {
  if (!key.starts_with(name)) return false;
  key.remove_prefix(name.size());
  if (key.empty()) return true;
  return key.size() > 1 && key[0] == '#' && key.find_first_not_of("0123456789", 1) == std::string_view::npos;
}

void check_keys(const std::string& name, const ShardedTensor& tensor, Problems& problems) {
  for (const Shard& shard : tensor.shards)
    if (!is_key_of(shard.key, name)) problems.push_back({shard.file, name, fmt::format("key '{}' is of another tensor", shard.key)});
}

void check_tensor(const std::string& name, const ShardedTensor& tensor, Problems& problems) {
  Shards first_replicas;
  Shards repeated;
  std::set<Box> first_boxes;
  bool is_all_inside = true;
  for (const Shard& shard : tensor.shards) {
    if (!is_inside(shard.box, tensor.shape)) {
      problems.push_back({shard.file, name, fmt::format("range {} is outside of shape {}", box_text(shard.box), base::shape_text(tensor.shape))});
      is_all_inside = false;
    } else if (shard.replica == 0) {
      first_replicas.push_back(&shard);
      first_boxes.insert(shard.box);
    } else {
      repeated.push_back(&shard);
    }
  }
  find_overlaps(name, first_replicas, problems);
  if (is_all_inside) find_hole(name, tensor, first_replicas, problems);
  check_replicas(name, repeated, first_boxes, problems);
}

}  // namespace

Problems coverage_problems(const Index& index) {
  Problems problems;
  std::set<std::pair<std::string, std::string>> keys;
  for (const auto& [name, tensor] : index.tensors) {
    check_keys(name, tensor, problems);
    check_tensor(name, tensor, problems);
    for (const Shard& shard : tensor.shards)
      if (!keys.emplace(shard.file, shard.key).second)
        problems.push_back({shard.file, name, fmt::format("key '{}' is used for two shards", shard.key)});
  }
  return problems;
}

Problems consistency_problems(const Index& index) {
  Problems problems;
  if (index.mesh.world_size() != index.world_size)
    problems.push_back({kIndexFile, "", fmt::format("mesh {} has {} ranks, world_size is {}", index.mesh.text(), index.mesh.world_size(),
                                                    index.world_size)});
  for (std::int64_t rank = 0; rank < index.mesh.world_size() && rank < index.world_size; ++rank)
    if (!index.files.contains(rank_file(rank)))
      problems.push_back({rank_file(rank), "", fmt::format("{} has world_size {} and does not list it", kIndexFile, index.world_size)});
  std::set<std::string> expected;
  for (std::int64_t rank = 0; rank < std::min<std::int64_t>(index.world_size, std::ssize(index.files)); ++rank) expected.insert(rank_file(rank));
  for (const auto& [name, seal] : index.files)
    if (!expected.contains(name))
      problems.push_back({name, "", fmt::format("{} lists it, and it is of no rank of world_size {}", kIndexFile, index.world_size)});
  for (const auto& [name, tensor] : index.tensors)
    for (const Shard& shard : tensor.shards)
      if (!index.files.contains(shard.file))
        problems.push_back({shard.file, name, fmt::format("a shard is in it, and {} does not list it", kIndexFile)});
  return problems;
}

}  // namespace moecheck::checkpoint
