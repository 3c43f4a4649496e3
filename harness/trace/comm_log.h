// Collectives of a rank, as they ran and as an implementation declares them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "harness/base/json.h"
#include "harness/base/result.h"

namespace moecheck::trace {

struct Collective {
  std::string kind = {};         // "all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast"
  std::string group = {};        // mesh dimensions, "ep" or "ep,tp"
  std::int64_t sequence = 0;   // counted from 1 for each group since the process group was made
  std::string reduce_op = {};    // "sum"; empty where nothing is reduced
  std::string dtype = {};        // "fp32", "bf16", "int64"
  std::int64_t count = 0;   // elements that this rank puts in
  std::int64_t bytes = 0;
  std::vector<std::int64_t> send_splits = {};   // rows to each rank of the group, all_to_all only
  std::vector<std::int64_t> recv_splits = {};
  std::string site = {};         // the stage that called it
  bool operator==(const Collective&) const = default;
};

// What an implementation says that it sends in one phase.
struct DeclaredCollective {
  std::string kind = {};
  std::string group = {};
  std::string site = {};
  std::int64_t times = 1;
  std::int64_t bytes = -1;  // of this rank over all times; -1 where it depends on the routing
  bool operator==(const DeclaredCollective&) const = default;
};

// Two ranks of a group that entered different collectives under one number: they may wait for each other forever. Or one that
// answered without having entered what the other waits in.
struct CollectiveMismatch {
  std::int64_t rank = 0;         // of the later one
  std::int64_t other_rank = 0;
  Collective got;                // what `rank` entered; without a kind: nothing
  Collective want;               // what `other_rank` had entered
};

// All ranks put in as many elements; shards of other kinds may be of any size.
bool has_one_count(std::string_view kind);

base::Json to_json(const Collective& collective);
base::Json to_json(const DeclaredCollective& declared);
// Errors: Json::exception for a wrong type; the caller names the file.
Collective collective_from_json(const base::Json& json);
DeclaredCollective declared_from_json(const base::Json& json);

}  // namespace moecheck::trace
