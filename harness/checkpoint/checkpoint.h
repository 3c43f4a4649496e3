// A checkpoint on disk: what is in it, whether it is whole, and its tensors.
//
// Forms, by what lies at the path:
//   sharded      index.json, see format.h
//   indexed      model.safetensors.index.json of Hugging Face, {"metadata": {"total_size"}, "weight_map": {name: file}}, and its files
//   folder       *.safetensors without an index, each tensor in one of them
//   file         one .safetensors file; the folder of a path to an index is read as that folder
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "harness/base/result.h"
#include "harness/checkpoint/format.h"
#include "harness/checkpoint/problem.h"
#include "harness/trace/safetensors.h"

namespace moecheck::checkpoint {

enum class Form { kSharded, kIndexed, kFolder, kFile };

std::string_view form_name(Form form);   // "sharded", "indexed", "folder", "file"

struct StoredFile {
  std::string name;
  std::uint64_t size = 0;
  std::string checksum;   // as measured; empty: not measured
};

struct Checkpoint {
  Form form = Form::kFile;
  std::filesystem::path folder;
  std::int64_t world_size = 1;   // of the sharded form
  model::Mesh mesh;
  std::vector<StoredFile> files;                    // those that are there, by name
  std::map<std::string, ShardedTensor> tensors;     // forms other than the sharded one: one shard, the whole tensor
  Problems problems;
  std::map<std::string, trace::TensorFile> opened;  // files that could be read; their tensors are views
};

// Looks at everything, and lists in `problems` what is wrong: a file that is missing, additional, damaged or of another size or
// checksum than its index says, a tensor in no file, in no index or in two files, ranges that leave a hole or overlap, replicas that
// differ, rank files of another world size.
// Errors: kIo if there is nothing to look at.
base::Result<Checkpoint> survey(const std::filesystem::path& path);

// The same; refuses a checkpoint with a problem.
// Errors: kIo, kDamaged with the first problems, each with its file.
base::Result<Checkpoint> read_checkpoint(const std::filesystem::path& path);

// Measures the checksum of every file that has none yet. Errors: kIo.
base::Status measure_checksums(Checkpoint& checkpoint);

// The elements in the box, dense: a view where a shard is that box, else assembled from the shards of replica 0.
// Requires: the name is in `tensors`, the box inside of it, and the checkpoint has no problem.
base::HostTensor box_of(const Checkpoint& checkpoint, const std::string& name, const Box& box);

// The same of the whole tensor.
base::HostTensor tensor_of(const Checkpoint& checkpoint, const std::string& name);

}  // namespace moecheck::checkpoint
