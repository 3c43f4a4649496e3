// The safetensors file format: 8 bytes header size, JSON header, data. Strict: a damaged file is refused, named, and why.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "harness/base/host_tensor.h"
#include "harness/base/result.h"

namespace moecheck::trace {

struct NamedTensor {
  std::string name;
  base::HostTensor tensor;
};

struct TensorFile {
  std::map<std::string, base::HostTensor> tensors;   // views into the file's bytes
  std::map<std::string, std::string> metadata;
};

// The bytes of a file; the tensors are views into them, and share `owner`, which keeps them alive. `where` is for errors.
// Refuses: a header above 100 MB, one that is not a JSON object from its first byte on (spaces may follow it), duplicate
// keys, entries with more or less than dtype, shape and data_offsets, unknown dtypes, metadata that are not strings, shapes
// beyond 63 bits, a size that does not fit shape and dtype, offsets that overlap, leave a gap, or end before or after the file.
// Reserves nothing of a size that the file only claims. The PyPI package refuses all that is refused here and the other way
// round, but for the cases that tests/unit/trace/safetensors_corpus.cpp lists, where this is stricter.
// Errors: kDamaged with `where`, the tensor and the remedy.
base::Result<TensorFile> parse_safetensors(std::span<const std::byte> file, std::shared_ptr<const void> owner,
                                           std::string_view where);

// The same of a file, which is mapped.
// Errors: kIo, and those of parse_safetensors.
base::Result<TensorFile> read_safetensors(const std::filesystem::path& path);

// What stands before the tensors' bytes: the size field and the padded header. Tensors lie in the order given.
// Requires: names are UTF-8, each once, none "__metadata__".
std::string safetensors_header(const std::vector<NamedTensor>& tensors, const std::map<std::string, std::string>& metadata);

// Written aside and renamed.
// Errors: kIo.
base::Status write_safetensors(const std::filesystem::path& path, const std::vector<NamedTensor>& tensors,
                               const std::map<std::string, std::string>& metadata);

}  // namespace moecheck::trace
