// The safetensors file format: 8 bytes header size, JSON header, data. Strict: a damaged file is refused, named, and why.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "harness/base/host_tensor.h"
#include "harness/base/result.h"

namespace moecheck::trace {

struct NamedTensor {
  std::string name;
  base::HostTensor tensor;
};

struct TensorFile {
  std::map<std::string, base::HostTensor> tensors;   // views into the mapped file
  std::map<std::string, std::string> metadata;
};

// Refuses: a header that is too large or not JSON, unknown dtypes, a size that does not fit shape and dtype, offsets that
// overlap, leave a gap, or end before or after the file, duplicate keys.
// Errors: kIo, kDamaged with the file and the tensor.
base::Result<TensorFile> read_safetensors(const std::filesystem::path& path);

// Written aside and renamed. Tensors lie in the order given.
// Errors: kIo.
base::Status write_safetensors(const std::filesystem::path& path, const std::vector<NamedTensor>& tensors,
                               const std::map<std::string, std::string>& metadata);

}  // namespace moecheck::trace
