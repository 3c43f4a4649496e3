#include "harness/checkpoint/expert_census.h"

#include <fmt/format.h>

#include "harness/checkpoint/expert_names.h"

namespace moecheck::checkpoint {

std::map<std::string, ExpertsOfGroups> experts_by_file(const Checkpoint& checkpoint) {
  std::map<std::string, ExpertsOfGroups> files;
  for (const auto& [name, tensor] : checkpoint.tensors) {
    const auto expert = expert_name(name, tensor.shape);
    if (!expert) continue;
    for (const Shard& shard : tensor.shards) {
      if (!is_inside(shard.box, tensor.shape)) continue;  // a problem of its own, and no place to count to
      std::set<std::int64_t>& experts = files[shard.file][expert->group];
      if (expert->expert) {
        experts.insert(*expert->expert);
      } else {
        for (std::int64_t e = 0; e < shard.box.shape[0]; ++e) experts.insert(experts.end(), shard.box.offset[0] + e);
      }
    }
  }
  return files;
}

std::string experts_text(const ExpertsOfGroups& groups) {
  std::map<std::string, int> num_groups;
  for (const auto& [group, experts] : groups) ++num_groups[ranges_text(experts)];
  if (num_groups.empty()) return "none";
  if (num_groups.size() == 1) return num_groups.begin()->first;
  std::string text;
  for (const auto& [experts, count] : num_groups)
    text += fmt::format("{}{} of {} {}", text.empty() ? "" : ", ", experts, count, count == 1 ? "group" : "groups");
  return text;
}

}  // namespace moecheck::checkpoint
