// libFuzzer on the safetensors reader. Whatever the bytes, the reader says that they are damaged, and why, or gives tensors
// that lie within them; what it reads and the writer writes again, it reads as the same.
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "harness/trace/safetensors.h"

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t max_size);

namespace moecheck::trace {
namespace {

constexpr std::size_t kSizeField = 8;
constexpr std::size_t kLongestMessage = 1000;
constexpr std::string_view kWhere = "fuzzed";

void judge_refusal(const base::Error& error) {
  MOECHECK_REQUIRE(error.code == base::ErrorCode::kDamaged && error.where == kWhere, error.text());
  MOECHECK_REQUIRE(!error.message.empty() && error.message.size() <= kLongestMessage, error.message);
  // It goes to terminals and into JSON, whatever the file's own words are.
  const auto is_printable = [](char c) { return c >= ' ' && c <= '~'; };
  MOECHECK_REQUIRE(std::ranges::all_of(error.message, is_printable));
}

std::string write(const TensorFile& file) {
  std::vector<NamedTensor> tensors;
  for (const auto& [name, tensor] : file.tensors) tensors.push_back({name, tensor});
  std::string bytes = safetensors_header(tensors, file.metadata);
  for (const NamedTensor& named : tensors)
    bytes.append(reinterpret_cast<const char*>(named.tensor.bytes().data()), named.tensor.num_bytes());
  return bytes;
}

// Reads every element: one outside of the bytes is the sanitizer's to find.
void judge_tensors(const TensorFile& file, std::size_t file_bytes) {
  std::size_t num_bytes = 0;
  for (const auto& [name, tensor] : file.tensors) {
    num_bytes += tensor.num_bytes();
    MOECHECK_REQUIRE(tensor.to_doubles().size() * base::itemsize(tensor.dtype()) == tensor.num_bytes(), name);
  }
  MOECHECK_REQUIRE(num_bytes <= file_bytes);
}

void judge_written_again(const TensorFile& file) {
  const std::string written = write(file);
  const auto again = parse_safetensors(std::as_bytes(std::span(written)), nullptr, kWhere);
  MOECHECK_REQUIRE(again.ok(), again.error().text());
  MOECHECK_REQUIRE(again->metadata == file.metadata && again->tensors.size() == file.tensors.size());
  for (const auto& [name, tensor] : file.tensors) {
    const auto found = again->tensors.find(name);
    MOECHECK_REQUIRE(found != again->tensors.end() && base::same_bytes(found->second, tensor), name);
  }
  MOECHECK_REQUIRE(write(*again) == written);
}

}  // namespace
}  // namespace moecheck::trace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace moecheck::trace;
  const auto file = parse_safetensors(std::as_bytes(std::span(data, size)), nullptr, kWhere);
  if (!file) {
    judge_refusal(file.error());
    return 0;
  }
  judge_tensors(*file, size);
  judge_written_again(*file);
  return 0;
}

// Half of the time changes the header and sets the size field to what it became: otherwise nearly every mutation ends there.
extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size, unsigned seed) {
  using namespace moecheck::trace;
  std::uint64_t header_bytes = 0;
  if (size >= kSizeField) std::memcpy(&header_bytes, data, kSizeField);
  if (seed % 2 == 0 || size < kSizeField || header_bytes == 0 || header_bytes > size - kSizeField)
    return LLVMFuzzerMutate(data, size, max_size);
  const std::size_t data_at = kSizeField + static_cast<std::size_t>(header_bytes);
  const std::vector<std::uint8_t> tensors(data + data_at, data + size);
  std::vector<std::uint8_t> header(data + kSizeField, data + data_at);
  const std::size_t room = max_size - kSizeField;
  header.resize(std::max(room, header.size()));
  header_bytes = LLVMFuzzerMutate(header.data(), data_at - kSizeField, room);
  const std::size_t kept = std::min<std::size_t>(tensors.size(), room - header_bytes);
  std::memcpy(data, &header_bytes, kSizeField);
  std::copy_n(header.data(), header_bytes, data + kSizeField);
  std::copy_n(tensors.data(), kept, data + kSizeField + header_bytes);
  return kSizeField + header_bytes + kept;
}
