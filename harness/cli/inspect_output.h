// What `moecheck inspect` prints.
//
// JSON: {"schema": 1, "path", "form": sharded|indexed|folder|file, "is_sound": bool, "world_size", "mesh",
//        "files": [{"name", "size", "checksum" (as measured), "is_readable", "tensors": count, "experts": {group: [expert]}}],
//        "tensors": [{"name", "dtype", "shape" (global), "shards": [{"file", "key", "offset", "shape", "replica"}]}],
//        "problems": [{"file", "tensor" (or ""), "message"}]}
// world_size and mesh are those of the sharded form, and null otherwise.
#pragma once

#include <string>

#include "harness/base/json.h"
#include "harness/checkpoint/checkpoint.h"

namespace moecheck::cli {

base::Json inspect_json(const checkpoint::Checkpoint& checkpoint, const std::string& path);

// Files with their experts, tensors with who holds which range, problems, and one line as summary. Experts of one part share a row.
std::string inspect_text(const checkpoint::Checkpoint& checkpoint, const std::string& path);

}  // namespace moecheck::cli
