// moecheck's sharded checkpoint: a folder with one file a rank and an index that says where everything belongs.
//
//   rank<r>.safetensors   what rank r wrote, r from 0 up to world_size - 1; its metadata have format, mesh and rank
//   index.json            {"format": "moecheck-sharded", "version": 1,
//                          "world_size": 4, "mesh": "dp=2,ep=2",
//                          "files": {"rank0.safetensors": {"size": bytes, "checksum": "xxh3:<32 hexadecimal digits>"}, ...},
//                          "tensors": {name: {"dtype": "BF16", "shape": [global sizes],
//                                             "shards": [{"file": "rank0.safetensors", "key": name in that file,
//                                                         "offset": [global index of its first element], "shape": [its sizes],
//                                                         "replica": 0}, ...]}},
//                          "checksum": "xxh3:..." of all members above, indented as here by one blank a level}
//
// A shard is a box of its global tensor. Its key is the tensor's name; a rank that holds several boxes of one tensor (a strided
// shard) writes several keys, with "#0", "#1", ... behind the name.
// Shards of replica 0 tile the global tensor; those of replica 1, 2, ... repeat boxes of replica 0 with the same bytes.
// The index is written last: without one a save did not finish, and with that of another save the checksums do not fit.
// Nothing but the index vouches for the index: it is read only if it is byte for byte what index_text() makes of its content, so
// that neither a changed blank nor another order passes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "harness/base/json.h"
#include "harness/base/result.h"
#include "harness/checkpoint/box.h"
#include "harness/model/mesh.h"

namespace moecheck::checkpoint {

inline constexpr const char* kIndexFile = "index.json";
inline constexpr const char* kShardedFormat = "moecheck-sharded";
inline constexpr int kShardedVersion = 1;

std::string rank_file(std::int64_t rank);   // "rank0.safetensors"

struct Shard {
  std::string file;
  std::string key;
  Box box;
  std::int64_t replica = 0;
  bool operator==(const Shard&) const = default;
};

struct ShardedTensor {
  base::DType dtype = base::DType::kF32;
  base::Shape shape;   // global
  std::vector<Shard> shards;
  bool operator==(const ShardedTensor&) const = default;
};

struct FileSeal {
  std::uint64_t size = 0;
  std::string checksum;
  bool operator==(const FileSeal&) const = default;
};

struct Index {
  std::int64_t world_size = 1;
  model::Mesh mesh;
  std::map<std::string, FileSeal> files;
  std::map<std::string, ShardedTensor> tensors;
  bool operator==(const Index&) const = default;
};

base::Json to_json(const Index& index);   // without the checksum

// The bytes of index.json.
std::string index_text(const Index& index);

// Only what it says by itself: types, sizes, names of files without a folder. Whether it is true is for survey() and coverage.
// Errors: kDamaged with the place in the index.
base::Result<Index> index_from_json(const base::Json& json, const std::string& where);

// Errors: kIo, kDamaged with the file; also where its bytes are not index_text() of what they say.
base::Result<Index> read_index(const std::filesystem::path& folder);

// Measures the files of all ranks, which must be there, and writes the index over an older one. `index.files` is not read.
// Errors: kIo with the file.
base::Status write_index(const std::filesystem::path& folder, Index index);

// A JSON object without duplicate keys. Errors: kIo, kDamaged with the file.
base::Result<base::Json> read_strict_json(const std::filesystem::path& path);
base::Result<base::Json> parse_strict_json(const std::string& text, const std::string& where);

// A name that stays in its folder.
bool is_plain_file_name(const std::string& name);

}  // namespace moecheck::checkpoint
